"""Every arm of every adapter, sampled and scored, and what it comes to over subjects.

Knows adapters in memory, suites and intervals. Refuses to know where adapters come from and how results are shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorafleet.bundle.adapter import Adapter
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.evaluate.arms import ADAPTER, BASE, REAL, SCALE_0, Arm, adapter_arm, controls
from lorafleet_jobs.evaluate.bootstrap import Interval, interval, paired_difference
from lorafleet_jobs.evaluate.pictures import ArmSamples, SamplingOptions, SubjectPictures, make, same_pictures
from lorafleet_jobs.evaluate.suite import Column, Scores, Suite

Progress = Callable[[str, str], None]
"""Told the candidate and the arm that is sampled next."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An adapter to evaluate."""

    label: str
    """What results call it; one of its own for each candidate."""
    adapter: Adapter
    subject: SubjectPictures
    word: str = "TOK"
    """What names the subject in a prompt."""


@dataclass(frozen=True)
class ScoredRow:
    """The scores of one candidate under one arm."""

    candidate: str
    subject: str
    arm: str
    scores: Scores


@dataclass(frozen=True)
class Evaluation:
    """Everything that was scored."""

    title: str
    notes: tuple[str, ...]
    """What a reader must know of the scores."""
    columns: tuple[Column, ...]
    rows: tuple[ScoredRow, ...]
    zero_is_base: bool
    """Whether every adapter at scale 0 made the base's pictures, to the bit."""
    seed: int

    @property
    def arms(self) -> list[str]:
        """The arms that were scored, in order."""
        return list(dict.fromkeys(row.arm for row in self.rows))

    def of_subjects(self, arm: str, column: Column) -> dict[str, float]:
        """One value a subject, the mean over its candidates; subjects without the score are missing."""
        by_subject: dict[str, list[float]] = {}
        for row in self.rows:
            if row.arm == arm and (value := row.scores.get(column)) is not None:
                by_subject.setdefault(row.subject, []).append(value)
        return {subject: statistics.fmean(values) for subject, values in by_subject.items()}

    def interval(self, arm: str, column: Column) -> Interval | None:
        """The mean over subjects with its interval; None where the score has no meaning."""
        values = self.of_subjects(arm, column)
        return interval(list(values.values()), self.seed) if values else None

    def difference(self, arm: str, other: str, column: Column) -> Interval | None:
        """The paired difference arm - other over the subjects that have both."""
        a, b = self.of_subjects(arm, column), self.of_subjects(other, column)
        both = [subject for subject in a if subject in b]
        return paired_difference([a[s] for s in both], [b[s] for s in both], self.seed) if both else None


def evaluate(
    loaded: LoadedBase,
    candidates: Sequence[Candidate],
    suite: Suite,
    how: SamplingOptions | None = None,
    progress: Progress = lambda candidate, arm: None,
) -> Evaluation:
    """Samples and scores every candidate and its controls."""
    how = how or SamplingOptions()
    rows: list[ScoredRow] = []
    zero_is_base = True
    for candidate in candidates:
        subject = candidate.subject
        rows.append(ScoredRow(candidate.label, subject.name, REAL, suite.of_real(subject)))
        made: dict[str, ArmSamples] = {}
        for arm in _arms(candidate, another(candidate, candidates), suite):
            progress(candidate.label, arm.name)
            prior = arm.name in (ADAPTER, BASE, SCALE_0)
            made[arm.name] = make(loaded, arm, subject.name, suite.prompts, how, prior)
            rows.append(ScoredRow(candidate.label, subject.name, arm.name, suite.of_made(subject, made[arm.name])))
        zero_is_base &= same_pictures(made[BASE], made[SCALE_0])
    return Evaluation(suite.title, suite.notes, suite.scores.columns(), tuple(rows), zero_is_base, how.seed)


def another(candidate: Candidate, candidates: Sequence[Candidate]) -> Candidate | None:
    """The next candidate of another subject, one of the same class first; None if there is none."""
    at = list(candidates).index(candidate)
    after = [one for one in (*candidates[at + 1 :], *candidates[:at]) if one.subject.name != candidate.subject.name]
    same = [one for one in after if one.subject.noun == candidate.subject.noun]
    return next(iter(same or after), None)


def _arms(candidate: Candidate, other: Candidate | None, suite: Suite) -> list[Arm]:
    noun = candidate.subject.noun
    beside = controls(
        candidate.adapter,
        noun,
        suite.wrong_noun(noun),
        None if other is None else other.adapter,
        candidate.word,
        "TOK" if other is None else other.word,
    )
    return [adapter_arm(candidate.adapter, noun, candidate.word), *beside]
