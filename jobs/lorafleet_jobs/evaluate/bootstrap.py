"""Intervals over subjects, never over pictures: a subject's pictures are not independent of each other.

Percentile bootstrap (Efron 1979), seeded. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over subjects and its interval; `low` and `high` are None for one subject, who shows no spread."""

    mean: float
    low: float | None
    high: float | None
    subjects: int

    def as_json(self) -> dict[str, float | int | None]:
        """For a JSON document."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "subjects": self.subjects}


def interval(values: Sequence[float], seed: int = 0, level: float = LEVEL) -> Interval:
    """The mean of one value a subject, with its bootstrap interval; ValueError for no values."""
    if not values:
        raise ValueError("an interval of no subjects; give at least one value")
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if len(data) < 2:
        return Interval(mean, None, None, 1)
    drawn = np.random.default_rng(seed).integers(0, len(data), (DRAWS, len(data)))
    low, high = np.quantile(data[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(data))


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0, level: float = LEVEL) -> Interval:
    """The mean of a - b, subject by subject, with its bootstrap interval; ValueError if they do not pair."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values do not pair; give one of each for every subject")
    return interval([x - y for x, y in zip(a, b, strict=True)], seed, level)
