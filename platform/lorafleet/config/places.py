"""Where in a file something is written, and what is wrong there: mistakes are gathered, then told all at once.

Knows files, lines and columns; refuses to know YAML and what the keys mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorafleet.errors import ManifestError

KeyPath = tuple[int | str, ...]
"""The keys and list indices that lead to a value."""
MOST_TOLD = 50
"""Mistakes that one error tells; it counts the others."""


@dataclass(frozen=True, order=True)
class Place:
    """A place in a file; lines and columns count from 1."""

    file: str
    line: int = 0
    """0: the file as a whole."""
    column: int = 0
    """0: the line as a whole."""

    @property
    def short(self) -> Place:
        """With the file's name alone, for what is told of one manifest."""
        return replace(self, file=Path(self.file).name)

    def __str__(self) -> str:
        """`pets.yaml:12:7`, as editors and terminals follow it."""
        return ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake."""

    place: Place
    message: str
    """The value, what is allowed, the remedy: one line."""

    def __str__(self) -> str:
        """`pets.yaml:12:7: resources.lanes is 0; it must be at least 1`."""
        return f"{self.place}: {self.message}"


@dataclass
class Problems:
    """The mistakes of one manifest and of the tables it names, each once."""

    found: dict[Problem, None] = field(default_factory=dict)

    def add(self, place: Place, message: str) -> None:
        """Notes a mistake."""
        self.found.setdefault(Problem(place, " ".join(message.split("\n"))))

    def __iter__(self) -> Iterator[Problem]:
        """By file, line and column; those of one place in the order found."""
        return iter(sorted(self.found, key=lambda problem: problem.place))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.found)

    def refuse(self) -> None:
        """Raises ManifestError with a line for each mistake, if there are any."""
        if not self:
            return
        lines = [str(problem) for problem in self]
        rest = len(lines) - MOST_TOLD
        more = [f"and {rest} more mistake{'s' * (rest != 1)}; correct these first"] if rest > 0 else []
        raise ManifestError("\n".join([*lines[:MOST_TOLD], *more]))


def named(path: Sequence[int | str]) -> str:
    """A path as people read it.

    >>> named(("subjects", 3, "images"))
    'subjects[3].images'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
