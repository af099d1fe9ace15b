"""What a set of scores is: prompts to sample, and scores of an arm's pictures and of real ones.

A suite is made for all subjects that are evaluated together, since a sample is told apart from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol, get_args

from lorafleet_jobs.evaluate.pictures import ArmSamples, Prompt, SubjectPictures

LEAVE_ONE_OUT = (
    "no views but the training pictures are known: copies of them score high on fidelity, and memorisation is read "
    "against how near the training pictures are to each other"
)


Aspect = Literal["fidelity", "prompt", "drift", "memorised"]
"""What a person asks of an adapter: is it the subject, does it do what is asked, does it leave others of the class as
they are, does it copy its training pictures."""
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)


def score(label: str, better: str, table: int = 0, aspect: Aspect | None = None) -> Any:
    """A field of a `Scores`: what it is called, whether "higher" or "lower" is better, and in which table it stands.

    The one score of a suite that answers for an `aspect` says so.
    """
    return field(default=None, metadata={"label": label, "better": better, "table": table, "aspect": aspect})


@dataclass(frozen=True)
class Column:
    """One score of a suite."""

    key: str
    """The field's name, and the key in JSON."""
    label: str
    better: str
    table: int
    aspect: Aspect | None = None


@dataclass(frozen=True)
class Scores:
    """The scores of one subject under one arm; None where a score has no meaning."""

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Its scores, in order."""
        return tuple(Column(one.name, **one.metadata) for one in fields(cls))

    def get(self, column: Column) -> float | None:
        """One score."""
        value: float | None = getattr(self, column.key)
        return value

    def as_json(self) -> dict[str, float | None]:
        """By the columns' labels."""
        return {column.label: self.get(column) for column in self.columns()}


class Suite(Protocol):
    """The scores that fit a base."""

    title: str
    """Stands above every table."""
    notes: tuple[str, ...]
    """What a reader must know of these scores."""
    scores: type[Scores]
    prompts: tuple[Prompt, ...]

    def of_made(self, subject: SubjectPictures, made: ArmSamples) -> Scores:
        """Scores of what an arm made of a subject."""

    def of_real(self, subject: SubjectPictures) -> Scores:
        """The ceiling: real pictures of the subject scored as if they were samples."""

    def wrong_noun(self, noun: str) -> str:
        """Another class's noun, for the control."""
