"""What an evaluation comes to: a word for each thing that a person asks of an adapter, and which one to keep.

Pure functions of scores; each is read between the base's under the same prompts and that of real pictures. Knows what
the scores are of (`suite.Aspect`). Refuses to know their names and how they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorafleet_jobs.evaluate.arms import ADAPTER, BASE, REAL
from lorafleet_jobs.evaluate.run import Evaluation
from lorafleet_jobs.evaluate.suite import ASPECTS, Aspect

CLOSE, SOME = 0.6, 0.15
"""Likeness as a share of the way from the base to real pictures: from here on it is close, and there is some."""
KEPT, PARTLY = 0.9, 0.7
"""Prompt fidelity as a share of the base's."""
LITTLE, MUCH = 0.1, 0.3
"""How far others of the class go the way towards the subject."""
WORST = {"fidelity": "none", "prompt": "lost", "memorised": "yes"}
"""What makes an adapter one to train again, by aspect, in the order in which it is said."""
REMEDIES = {
    "fidelity": "train again with more steps or a higher learning_rate",
    "prompt": "train again with fewer steps or a lower rank",
    "memorised": "train again with more photos or fewer steps",
}


@dataclass(frozen=True)
class Reading:
    """One score of one adapter."""

    value: float | None
    word: str
    """"-" where the score has no meaning."""
    base: float | None
    """What the base has under the same prompts."""


@dataclass(frozen=True)
class Verdict:
    """What one adapter is worth."""

    adapter: str
    subject: str
    readings: dict[Aspect, Reading]

    @property
    def likeness(self) -> float:
        """The score by which adapters of one subject are ordered."""
        value = self.readings["fidelity"].value
        return float("-inf") if value is None else value

    @property
    def worst(self) -> Aspect | None:
        """What it fails in; None if it is of use."""
        return next((aspect for aspect in ASPECTS if self.readings[aspect].word == WORST.get(aspect)), None)


def verdicts(evaluation: Evaluation) -> list[Verdict]:
    """One for each adapter, in the order in which they were evaluated."""
    columns = {column.aspect: column for column in evaluation.columns if column.aspect is not None}
    scores = {(row.candidate, row.arm): row.scores for row in evaluation.rows}
    found = []
    for row in evaluation.rows:
        if row.arm != ADAPTER:
            continue
        readings = {}
        for aspect in ASPECTS:
            column = columns.get(aspect)
            value, base, real = (
                None if column is None or (row.candidate, arm) not in scores else scores[row.candidate, arm].get(column)
                for arm in (ADAPTER, BASE, REAL)
            )
            if aspect == "drift" and (fidelity := columns.get("fidelity")) and (row.candidate, REAL) in scores:
                real = scores[row.candidate, REAL].get(fidelity)  # both are likeness to the subject
            readings[aspect] = Reading(value, word_for(aspect, value, base, real), base)
        found.append(Verdict(row.candidate, row.subject, readings))
    return found


def word_for(aspect: Aspect, value: float | None, base: float | None, real: float | None) -> str:
    """A word for a score, given the base's and that of real pictures, either of which may be missing."""
    if value is None:
        return "-"
    if aspect == "memorised":
        return "yes" if value > 0 else "no"
    if base is None:
        return "-"
    if aspect == "prompt":
        share = value / base if base > 0 else 1.0
        return "kept" if share >= KEPT else "partly" if share >= PARTLY else "lost"
    way = (1.0 if real is None else real) - base
    share = (value - base) / way if way > 0 else float(value > base)
    if aspect == "fidelity":
        return "close" if share >= CLOSE else "some" if share >= SOME else "none"
    return "little" if share <= LITTLE else "some" if share <= MUCH else "much"


def recommendations(found: Sequence[Verdict]) -> list[str]:
    """One sentence a subject: which adapter to keep, or what to do instead, and why."""
    subjects = dict.fromkeys(one.subject for one in found)
    return [_recommended([one for one in found if one.subject == subject]) for subject in subjects]


def _recommended(rivals: Sequence[Verdict]) -> str:
    """The one of the greatest likeness among those of use; if none is, the greatest of all with its remedy."""
    best = max(rivals, key=lambda one: (one.worst is None, one.likeness))
    fidelity = best.readings["fidelity"]
    if fidelity.value is None:
        return f"{best.adapter}: look at its pictures; there is no score of its likeness"
    likeness = f"likeness {fidelity.value:.2f}"
    if best.worst is not None:
        return f"{best.adapter}: {REMEDIES[best.worst]}; {_complaint(best, likeness)}"
    others = [one for one in rivals if one is not best]
    if not others:
        return f"{best.adapter}: keep; {likeness} against {fidelity.base or 0:.2f} for the base"
    second = max(others, key=lambda one: one.likeness)
    why = f"{likeness} against {second.likeness:.2f} for {second.adapter}"
    if second.worst is not None and second.likeness > best.likeness:
        why += f", which {_FAILS[second.worst]}"
    return f"{best.adapter}: keep; {why}"


_FAILS = {
    "fidelity": "does not show the subject",
    "prompt": "ignores prompts",
    "memorised": "copies its training pictures",
}


def _complaint(one: Verdict, likeness: str) -> str:
    base = one.readings["fidelity"].base
    if one.worst == "fidelity":
        return f"{likeness}, and the base has {base or 0:.2f} without it"
    return f"{likeness}, but it {_FAILS[str(one.worst)]}"
