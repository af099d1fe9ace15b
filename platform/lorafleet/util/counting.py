"""Counts in a frozen dataclass, so that a reader gets all counts of one moment. Knows fields and numbers only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Stats = TypeVar("Stats", bound="DataclassInstance")


def increased(stats: Stats, **more: float) -> Stats:
    """The stats with `more` added to the fields named; AttributeError for one that they do not have."""
    return replace(stats, **{name: getattr(stats, name) + n for name, n in more.items()})
