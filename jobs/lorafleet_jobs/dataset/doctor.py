"""The dataset doctor: looks at every subject's images and captions, and says what it finds, by stable ids.

Bias to warn: only what cannot be trained at all is an error, and an error stops its own subject alone. The ids are in
`lorafleet_jobs.dataset.findings`. Knows images and texts; refuses to know bases and recipes, beside what they need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lorafleet.config import Manifest
from lorafleet.errors import DataError
from lorafleet.removal.forgotten import ASKED_TOO
from lorafleet_jobs.dataset.about_folders import about_left_out, about_name, about_nothing, about_place
from lorafleet_jobs.dataset.about_images import about_count, about_pictures, about_set
from lorafleet_jobs.dataset.about_texts import Texts, about_captions, about_idle, about_lengths, about_words
from lorafleet_jobs.dataset.captions import read_captions
from lorafleet_jobs.dataset.findings import Finding, error, finding, some
from lorafleet_jobs.dataset.listing import Listing, count_images, list_folder
from lorafleet_jobs.dataset.masks import read_masks
from lorafleet_jobs.dataset.open_image import OpenedImage, open_image
from lorafleet_jobs.dataset.subjects import Subject, find_subjects
from lorafleet_jobs.images import ImageFingerprint
from lorafleet_jobs.jobspec import ImageSpec

MANY_IMAGES = 200
"""From so many on they are opened by several processes, whose start takes about a second."""
KEYS = {
    "D001": "images", "D011": "instance_prompt", "D014": "instance_prompt", "D016": "class", "D019": "name",
    "D020": "images", "D038": "images",
}  # fmt: skip
"""Findings about what the manifest says, and the key that says it."""


@dataclass(frozen=True)
class SubjectReport:
    """What was found about one subject, and the images that can be trained on."""

    subject: Subject
    images: tuple[ImageSpec, ...] = ()
    findings: tuple[Finding, ...] = ()
    looks: tuple[ImageFingerprint, ...] = field(default=(), repr=False, compare=False)
    """Of `images`, one each."""

    @property
    def name(self) -> str:
        """The subject's name, or what the manifest has in its place."""
        return self.subject.name or self.subject.written

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What keeps the subject from training."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def as_json(self) -> dict[str, Any]:
        """The report as `check --json` prints it."""
        findings = [finding.model_dump() for finding in self.findings]
        return {"name": self.name, "images": len(self.images), "findings": findings}


@dataclass(frozen=True)
class Needs:
    """What the recipes of a submission ask of its images, as far as the doctor judges it."""

    resolution: int | None = None
    """The side in pixels that images will be trained at; None: low resolution is not judged."""
    texts: Texts = field(default_factory=Texts)
    masks: bool = False
    """Whether masks are used."""


def check(manifest: Manifest, folder: Path, needs: Needs | None = None) -> list[SubjectReport]:
    """A report for every subject of a manifest that lies in `folder`, in its order; all of them need the same."""
    subjects = find_subjects(manifest, folder)
    return check_subjects([Asked(subject, needs or Needs()) for subject in subjects])


@dataclass(frozen=True)
class Asked:
    """A subject to be examined."""

    subject: Subject
    needs: Needs
    shared: tuple[Finding, ...] = ()
    """What was found already that concerns it, as about the class images."""


Tick = Callable[[int, int], None]
"""Is told how many of how many subjects have been looked at."""


def silent(done: int, count: int) -> None:
    """Tells nobody."""


def check_subjects(asked: Sequence[Asked], tick: Tick = silent, workers: int = 1) -> list[SubjectReport]:
    """A report for every subject, in order; `tick` is called before the first and after each.

    Many images are opened by so many processes, which a program that is started as a script must allow for by the
    guard `if __name__ == "__main__"`.
    """
    adapters = {one.subject.name for one in asked if one.subject.name}
    reports: list[SubjectReport] = []
    tick(0, len(asked))
    with _deaths_explained(), ExitStack() as stack:
        for one, seen in zip(asked, _see_all([one.subject for one in asked], workers, stack), strict=True):
            reports.append(_examine(one.subject, one.needs, adapters, seen))
            tick(len(reports), len(asked))
    compared = _compare_names(_compare_pictures(reports))
    return [_with(_placed(report), one.shared) for report, one in zip(compared, asked, strict=True)]


@contextmanager
def _deaths_explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        remedy = "free some, or let one process open all: taskset -c 0 lorafleet check"
        raise DataError(f"a process that opened images was ended, as happens where memory runs out; {remedy}") from None


@dataclass(frozen=True)
class _Seen:
    """A folder's files, and its images opened."""

    listing: Listing
    images: list[OpenedImage | Finding]


def _see_all(subjects: Sequence[Subject], workers: int, stack: ExitStack) -> Iterable[_Seen | None]:
    """What lies in each subject's folder, as it is asked for or by processes ahead of that."""
    folders = [one.folder for one in subjects if one.folder is not None]
    if workers < 2 or len(folders) < 2 or sum(map(count_images, folders)) < MANY_IMAGES:
        return map(_see, subjects)
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool.map(_see, subjects)


def _see(subject: Subject) -> _Seen | None:
    """None if the folder cannot be opened, which `about_place` says."""
    if subject.folder is None or about_place(subject) is not None:
        return None
    listing = list_folder(subject.folder)
    return _Seen(listing, [open_image(subject.folder, file) for file in listing.images])


def _placed(report: SubjectReport) -> SubjectReport:
    """Findings about what the manifest says begin with the place where it says so."""
    return replace(report, findings=tuple(placed(report.subject, one) for one in report.findings))


def placed(subject: Subject, finding: Finding) -> Finding:
    """A finding about what the manifest says, with the place where it does; another as it is."""
    place = subject.places.get(KEYS.get(finding.id, ""))
    if place is None or finding.file is not None or finding.level == "info":
        return finding
    return finding.with_changes(message=f"{place.short}: {finding.message}")


def _examine(subject: Subject, needs: Needs, adapters: Collection[str], seen: _Seen | None) -> SubjectReport:
    findings = [*about_words(subject, needs.texts, adapters), *about_name(subject)]
    if seen is None or subject.folder is None:
        missing = about_place(subject)
        return SubjectReport(subject, findings=(*findings, *([missing] if missing else [])))
    listing = seen.listing
    good = [result for result in seen.images if isinstance(result, OpenedImage)]
    findings += [_skipped(result, bool(good)) for result in seen.images if isinstance(result, Finding)]
    findings += [*about_count(good), *about_pictures(good, needs.resolution), *about_set(subject.name, good)]
    if not good:
        findings.append(about_nothing(subject, listing))
    captions = read_captions(
        subject.folder,
        [file.name for file in listing.images],
        [file.name for file in listing.others],
        subject.caption_column,
        adapters,
    )
    findings += [*captions.findings, *about_idle(captions, {opened.file for opened in good})]
    masks, about_masks = read_masks(listing, good, needs.masks)
    images = tuple(
        ImageSpec(file=o.file, caption=captions.by_file.get(o.file), sha256=o.sha256, mask=masks.get(o.file))
        for o in good
    )
    findings += [*about_captions(images, needs.texts, captions.sources), *about_lengths(subject, images, needs.texts)]
    findings += [*about_masks, *about_left_out(subject, listing, captions.files)]
    return SubjectReport(subject, images, tuple(findings), tuple(o.looks for o in good))


def refuse_forgotten(report: SubjectReport, forgotten: frozenset[str]) -> SubjectReport:
    """A report that also says which photographs were forgotten: `forgotten` are hashes of files and of pixels."""
    shown = zip(report.images, report.looks, strict=True)
    files = [image.file for image, looks in shown if not forgotten.isdisjoint((image.sha256, looks.pixels))]
    if not files:
        return report
    photographs = "1 photograph was" if len(files) == 1 else f"{len(files)} photographs were"
    message = (
        f"{photographs} forgotten here (lorafleet forget): {some(files)}; take them out of the folder, or train on "
        f"them all the same with {ASKED_TOO}"
    )
    return _with(report, [error("D039", message)])


def _skipped(finding: Finding, others: bool) -> Finding:
    if finding.id == "D015" or not others:
        return finding
    return finding.with_changes(level="warn", message=f"{finding.message}; it is left out")


def _compare_pictures(reports: Sequence[SubjectReport]) -> list[SubjectReport]:
    holders: dict[str, list[int]] = {}
    for index, report in enumerate(reports):
        for pixels in {looks.pixels for looks in report.looks}:
            holders.setdefault(pixels, []).append(index)
    shared = Counter((i, j) for where in holders.values() for i in where for j in where if i != j)
    findings_by_report: dict[int, list[Finding]] = {}
    for (index, other), count in sorted(shared.items()):
        message = (
            f"shares {count} picture{'s' * (count > 1)} with {reports[other].name!r}; is it the same subject twice?"
        )
        findings_by_report.setdefault(index, []).append(finding("D018", "warn", message))
    return [_with(report, findings_by_report.get(index, ())) for index, report in enumerate(reports)]


def _compare_names(reports: Sequence[SubjectReport]) -> list[SubjectReport]:
    counts = Counter(report.subject.name for report in reports if report.subject.folder is not None)
    return [
        _with(report, [error("D019", f"{counts[name]} subjects are called {name!r}; give each its own name:")])
        if (name := report.subject.name) and counts[name] > 1
        else report
        for report in reports
    ]


def _with(report: SubjectReport, findings: Sequence[Finding]) -> SubjectReport:
    return replace(report, findings=(*report.findings, *findings))
