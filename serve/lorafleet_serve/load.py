"""What the engine's counts say about load: when to come back, and how many replicas are wanted. Pure."""

from __future__ import annotations

import math

from lorafleet_serve.counts import EngineStats

UNKNOWN_SECONDS, MOST_SECONDS = 5.0, 120.0


def retry_after_seconds(stats: EngineStats) -> float:
    """In how many seconds what waits now will have been started, at the rate of images so far; between 1 and 120.

    5 before the first image.
    """
    if stats.images == 0:
        return UNKNOWN_SECONDS
    return min(max(1.0, stats.rows_waiting * stats.step_seconds / stats.images), MOST_SECONDS)


def replicas_wanted(rows: float, rows_per_replica: int) -> int:
    """The fewest replicas on which `rows`, running and waiting, would all run; at least 1."""
    return max(1, math.ceil(rows / rows_per_replica))
