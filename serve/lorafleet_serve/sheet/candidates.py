"""From words of a user to the adapters that a sheet shows: their cards, what tells them apart, their photos.

A word is a submission, an adapter, or a bundle's folder. Knows the registry and what MLflow records of submissions.
Refuses to know pictures.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lorafleet.bundle.bundle import AdapterCard, read_bundle
from lorafleet.bundle.folder_registry import version_of
from lorafleet.bundle.ports import CHAMPION, AdapterRegistry, AdapterVersion
from lorafleet.config import Validation
from lorafleet.config.point_wording import name_points
from lorafleet.config.strict import parse
from lorafleet.errors import ManifestError, NotFoundError, RequestError
from lorafleet_serve.adapters.spec import parse_adapter

if TYPE_CHECKING:
    from lorafleet.tracking.submissions import RecordedSubmission, SubmissionRecords


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An adapter of a sheet."""

    adapter: AdapterVersion
    card: AdapterCard
    registered: bool = True
    """Whether the registry has it; a bundle's folder is looked at without one."""
    point: str = ""
    """What its recipe has that those of the other candidates of its name have not."""
    photos: Path | None = None
    """The folder of the pictures that it was trained on."""

    @property
    def label(self) -> str:
        """`rex@2`; of a folder its path."""
        return f"{self.adapter.name}@{self.adapter.version}" if self.registered else str(self.adapter.path.name)

    @property
    def spelt(self) -> str:
        """How `lorafleet generate --adapter` is told of it."""
        return self.label if self.registered else str(self.adapter.path)

    @property
    def is_champion(self) -> bool:
        """Whether it is what its name means without a version."""
        return self.registered and any(alias.startswith(CHAMPION) for alias in self.adapter.aliases)

    @property
    def has_words(self) -> bool:
        """Whether it learned tokens."""
        return any(trigger.tokens for trigger in self.card.triggers)


@dataclass(frozen=True)
class Found:
    """What was meant."""

    candidates: tuple[Candidate, ...]
    submissions: tuple[RecordedSubmission, ...]
    """Those that the candidates are of, the first candidate's first."""

    @property
    def validation(self) -> Validation:
        """The prompts and the seed that the first submission was validated with; the defaults without any."""
        return next((_validation(one.manifest) for one in self.submissions), Validation())

    @property
    def repeated(self) -> bool:
        """Whether a name has several candidates, so that these are compared with each other and not with others."""
        return max(Counter(one.adapter.name for one in self.candidates).values()) > 1


@dataclass
class Finder:
    """Finds candidates in one registry."""

    registry: AdapterRegistry
    records: SubmissionRecords

    @cached_property
    def _names(self) -> set[str]:
        return {one.name for one in self.registry.list()}

    def find(self, words: Sequence[str]) -> Found:
        """The candidates that the words mean, each once, in their order.

        A word that is both is an adapter. NotFoundError, AmbiguousError, BundleError, RequestError for a word with a
        scale.
        """
        by_place: dict[Path, Candidate] = {}
        for word in words:
            for candidate in self._of_word(word):
                by_place.setdefault(candidate.adapter.path, candidate)
        submissions: dict[str, RecordedSubmission] = {}
        found = []
        for candidate in by_place.values():
            submission = self.records.of_version_run(candidate.adapter.run_id) if candidate.registered else None
            if submission is not None:
                submissions.setdefault(submission.run_id, submission)
            found.append(_with_photos(candidate, () if submission is None else (submission,)))
        return Found(tuple(_with_points(found)), tuple(submissions.values()))

    def _of_word(self, word: str) -> list[Candidate]:
        if "=" in word.rpartition("/")[2]:
            raise RequestError(f"{word!r} has a scale; name the adapter alone, and give scales with --scales or --x")
        spec = None if "/" not in word and "@" not in word and word not in self._names else parse_adapter(word)
        if spec is not None and spec.folder is not None:
            return [Candidate(version_of(spec.folder), read_bundle(spec.folder).card, registered=False)]
        if spec is not None:
            return [_candidate(self.registry.resolve(spec.name, spec.version))]
        submission = self.records.find(word)
        if submission is None:
            names = ", ".join(sorted(self._names)[:20])
            there = (
                f"there are the adapters {names}; see also lorafleet ls" if names else "nothing was trained here yet"
            )
            raise NotFoundError(f"{word!r} is neither a submission nor an adapter here; {there}")
        if not submission.versions:
            raise NotFoundError(
                f"submission {submission.id} has no adapters yet; see: lorafleet status {submission.id}"
            )
        versions = [self.registry.resolve(one.adapter, str(one.version)) for one in submission.versions]
        return [_with_photos(_candidate(version), (submission,)) for version in versions]


def _candidate(adapter: AdapterVersion) -> Candidate:
    return Candidate(adapter, read_bundle(adapter.path).card)


def _with_photos(candidate: Candidate, submissions: Iterable[RecordedSubmission]) -> Candidate:
    jobs = (job for submission in submissions for job in submission.versions)
    photos = next((job.photos for job in jobs if job.job_id == candidate.card.job_id), candidate.photos)
    return replace(candidate, photos=photos)


def _with_points(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, those of one name with what their recipes have of their own."""
    named = []
    for candidate in candidates:
        same = [one for one in candidates if one.adapter.name == candidate.adapter.name]
        recipes = {one.card.job_id: {**one.card.recipe, "steps": one.card.steps} for one in same}
        is_trained = len(recipes) == len(same) and not any(one.card.imported_from for one in same)
        named.append(replace(candidate, point=name_points(recipes)[candidate.card.job_id] if is_trained else ""))
    return named


def _validation(manifest: str) -> Validation:
    data = yaml.safe_load(manifest) or {}
    try:
        return parse(Validation, data.get("validation") or {}, "validation")
    except ManifestError as problem:  # written by another release
        log.warning("%s; the default prompts and seed are used", problem)
        return Validation()
