"""The dataset doctor: looks at every subject's images and captions, and says what it finds, by stable ids.

Bias to warn: only what cannot be trained at all is an error, and an error stops its own subject alone. The ids are in
`lorafleet_jobs.findings`. Knows images and texts; refuses to know bases and recipes, beside what they need.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import Any

from lorafleet.config import Manifest
from lorafleet_jobs.captions import read_captions
from lorafleet_jobs.dataset import Subject, find_images, find_subjects
from lorafleet_jobs.findings import Finding, Level, reserved_text
from lorafleet_jobs.images import Looks
from lorafleet_jobs.jobspec import ImageSpec
from lorafleet_jobs.masks import read_masks
from lorafleet_jobs.opening import Opened, is_utf8, open_image

FEW, MANY = 4, 30
ODD_ASPECT = 2.0
_TOKEN = re.compile(r"\bTOK\b")


@dataclass(frozen=True)
class SubjectReport:
    """What was found about one subject, and the images that can be trained on."""

    subject: Subject
    images: tuple[ImageSpec, ...] = ()
    findings: tuple[Finding, ...] = ()
    looks: tuple[Looks, ...] = field(default=(), repr=False, compare=False)
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
        found = [finding.model_dump() for finding in self.findings]
        return {"name": self.name, "images": len(self.images), "findings": found}


@dataclass(frozen=True)
class Needs:
    """What the recipes of a submission ask of its images, as far as the doctor judges it."""

    resolution: int | None = None
    """The side in pixels that images will be trained at; None: low resolution is not judged."""
    token: bool = True
    """Whether `TOK` is learned, so that prompts must hold it."""
    prefix: str = ""
    """What comes before every caption, and may hold `TOK` in its place."""
    masks: bool = False
    """Whether masks are used."""


def check(
    manifest: Manifest, folder: Path, needs: Needs | None = None, shared: Sequence[Finding] = ()
) -> list[SubjectReport]:
    """A report for every subject of a manifest that lies in `folder`, in its order.

    `shared` is what was found that concerns every subject, as about the class images.
    """
    reports = [_examine(subject, needs or Needs()) for subject in find_subjects(manifest, folder)]
    return [_with(report, shared) for report in _compare_names(_compare_pictures(reports))]


def _examine(subject: Subject, needs: Needs) -> SubjectReport:
    findings = [*_about_words(subject, needs.token)]
    missing = _missing(subject)
    if missing is not None or subject.folder is None:
        return SubjectReport(subject, findings=(*findings, *([missing] if missing else [])))
    files = find_images(subject.folder)
    seen = [open_image(subject.folder, file) for file in files]
    good = [result for result in seen if isinstance(result, Opened)]
    findings += [_skipped(result, bool(good)) for result in seen if isinstance(result, Finding)]
    findings += [warning for opened in good for warning in opened.warnings]
    findings += [*_about_count(subject, good), *_about_pictures(good, needs.resolution)]
    captions = read_captions(subject.folder, [file.name for file in files], subject.caption_column)
    masks, about_masks = read_masks(subject.folder, good, needs.masks)
    images = tuple(
        ImageSpec(file=o.file, caption=captions.by_file.get(o.file), sha256=o.sha256, mask=masks.get(o.file))
        for o in good
    )
    wants_token = needs.token and not _TOKEN.search(needs.prefix)
    findings += [*captions.findings, *_about_captions(images, wants_token), *about_masks]
    return SubjectReport(subject, images, tuple(findings), tuple(o.looks for o in good))


def _about_words(subject: Subject, token: bool) -> Iterator[Finding]:
    if not subject.name:
        yield _error("D019", f"no name can be made of folder {subject.written!r}; add name: to the subject")
    if subject.class_noun is None or not subject.class_noun.strip():
        yield _error("D016", "no class; add class: with the word for what it is, as in class: dog")
    prompt = subject.instance_prompt
    for words in (prompt, subject.class_noun):
        if words and (reserved := reserved_text(words)) is not None:
            yield _error("D014", f"{words!r} holds {reserved!r}, which is reserved; remove it")
    if token and prompt is not None and not _TOKEN.search(prompt):
        yield _error(
            "D011", f"instance prompt {prompt!r} lacks TOK, the word to be learned; write it in, as in 'a TOK dog'"
        )


def _missing(subject: Subject) -> Finding | None:
    folder, written = subject.folder, subject.written
    if folder is None:
        return _error("D020", f"glob {written!r} matches no folder; paths are relative to the manifest")
    if not is_utf8(str(folder)):
        return _error("D020", f"the path {folder} is not UTF-8; rename the folder")
    if os.path.isdir(folder):  # unlike Path's, False for names that no path can have
        readable = os.access(folder, os.R_OK | os.X_OK)
        return None if readable else _error("D020", f"folder {written!r} cannot be opened; check its permissions")
    if os.path.exists(folder):
        return _error("D020", f"{written!r} is a file; give the folder that holds the subject's images")
    near: list[str] = []
    if os.path.isdir(folder.parent):
        near = get_close_matches(folder.name, [path.name for path in folder.parent.iterdir() if path.is_dir()], n=1)
    hint = f"did you mean {str(Path(written).with_name(near[0]))!r}?" if near else "paths are relative to the manifest"
    return _error("D020", f"no folder {written!r} ({folder}); {hint}")


def _skipped(finding: Finding, others: bool) -> Finding:
    if finding.id == "D015" or not others:
        return finding
    return finding.with_changes(level="warn", message=f"{finding.message}; it is left out")


def _about_count(subject: Subject, good: Sequence[Opened]) -> Iterator[Finding]:
    count = len({opened.looks.pixels for opened in good})
    if count == 0:
        yield _error("D001", f"no readable image in {subject.written!r}; put 4 to 30 JPEG, PNG or WEBP files there")
    elif count < FEW:
        yield _finding("D001", "warn", f"only {count} different image{'s' * (count > 1)}; 4 to 30 work best, add some")
    elif count > MANY:
        yield _finding("D001", "info", f"{count} images; 4 to 30 are usually enough")


def _about_pictures(good: Sequence[Opened], resolution: int | None) -> Iterator[Finding]:
    for opened in good:
        width, height = opened.looks.width, opened.looks.height
        if resolution is not None and min(width, height) < resolution / 2:
            message = f"{opened.file} is {width} x {height}; it will be enlarged to {resolution}, give a larger one"
            yield _finding("D004", "warn", message, opened.file)
        if max(width, height) > ODD_ASPECT * min(width, height):
            message = f"{opened.file} is {width} x {height}; more than 2:1, the ends will be cut off, crop it yourself"
            yield _finding("D009", "warn", message, opened.file)
    for first, second in combinations(good, 2):
        if first.looks.pixels == second.looks.pixels:
            yield _finding(
                "D005", "warn", f"{second.file} is the same picture as {first.file}; remove one", second.file
            )
        elif first.looks.is_near(second.looks):
            message = f"{second.file} is nearly the same picture as {first.file}; different views teach more"
            yield _finding("D006", "warn", message, second.file)


def _about_captions(images: Sequence[ImageSpec], token: bool) -> Iterator[Finding]:
    bare = sum(image.caption is None for image in images)
    if bare:
        yield _finding("D010", "info", f"{bare} of {len(images)} images have no caption; the instance prompt stands in")
    lacking = [image for image in images if image.caption is not None and not _TOKEN.search(image.caption)]
    if token and lacking:
        message = f"{len(lacking)} of {len(images)} captions lack TOK, the word to be learned; write it in"
        yield _finding("D011", "warn", message, lacking[0].file)


def _compare_pictures(reports: Sequence[SubjectReport]) -> list[SubjectReport]:
    holders: dict[str, list[int]] = {}
    for index, report in enumerate(reports):
        for pixels in {looks.pixels for looks in report.looks}:
            holders.setdefault(pixels, []).append(index)
    shared = Counter((i, j) for where in holders.values() for i in where for j in where if i != j)
    found: dict[int, list[Finding]] = {}
    for (index, other), count in sorted(shared.items()):
        message = (
            f"shares {count} picture{'s' * (count > 1)} with {reports[other].name!r}; is it the same subject twice?"
        )
        found.setdefault(index, []).append(_finding("D018", "warn", message))
    return [_with(report, found.get(index, ())) for index, report in enumerate(reports)]


def _compare_names(reports: Sequence[SubjectReport]) -> list[SubjectReport]:
    counts = Counter(report.subject.name for report in reports if report.subject.folder is not None)
    return [
        _with(report, [_error("D019", f"{counts[name]} subjects are called {name!r}; give each its own name:")])
        if (name := report.subject.name) and counts[name] > 1
        else report
        for report in reports
    ]


def _with(report: SubjectReport, findings: Sequence[Finding]) -> SubjectReport:
    return replace(report, findings=(*report.findings, *findings))


def _finding(id: str, level: Level, message: str, file: str | None = None) -> Finding:  # noqa: A002
    return Finding(id=id, level=level, message=message, file=file)


def _error(id: str, message: str, file: str | None = None) -> Finding:  # noqa: A002
    return _finding(id, "error", message, file)
