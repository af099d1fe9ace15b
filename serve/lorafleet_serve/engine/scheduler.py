"""Which rows step next and how many of them together. Pure decisions from the steps measured before.

Knows shapes, numbers of rows and milliseconds; refuses to know clocks, tensors and requests.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from lorafleet.errors import RequestError

Shape = TypeVar("Shape", bound=Hashable)
NEW_WEIGHT = 0.3
"""The weight of a new measurement in the running mean."""
DECAY = 0.998
"""A measurement over the limit is multiplied by this each time it keeps rows out: one slow step is forgotten."""


def check_step_limit(max_step_ms: float | None, exact: bool) -> None:
    """RequestError for a limit on steps in exact mode, where it could change nothing."""
    if exact and max_step_ms is not None:
        raise RequestError("max_step_ms does not fit exact, where a step is one image's call already; leave it out")


class RoundRobin(Generic[Shape]):
    """Which shape steps next: the one that has waited longest, so that none waits longer than one round of all."""

    def __init__(self) -> None:
        self._queue: list[Shape] = []

    def next(self, shapes: Collection[Shape]) -> Shape:
        """The next shape among those present; it goes to the end of the queue, where new ones join too."""
        queue = [shape for shape in self._queue if shape in shapes]
        queue += [shape for shape in dict.fromkeys(shapes) if shape not in queue]
        self._queue = [*queue[1:], queue[0]]
        return queue[0]


class StepBudget(Generic[Shape]):
    """How many rows may step together so that a step stays within `max_step_ms`, estimated from the steps taken.

    Costs are UNet rows. A step grows by at most one image beyond what was measured, and only while the line through
    the two largest measurements stays within the limit.
    """

    def __init__(self, max_step_ms: float | None = None) -> None:
        self._limit = float("inf") if max_step_ms is None else max_step_ms
        self._ms: dict[Shape, dict[int, float]] = {}
        self._most: dict[Shape, int] = {}

    def choose(self, shape: Shape, costs: Sequence[int]) -> int:
        """How many of the rows with these costs, in the order they came, step now; at least 1."""
        totals = list(accumulate(costs))
        most = self._most.get(shape, totals[-1])
        chosen = 1
        for n in range(len(totals), 1, -1):
            if totals[n - 1] <= most and self._fits(shape, totals[n - 1], totals[n - 2]):
                chosen = n
                break
        if chosen < len(totals):
            self._decay_slowest(shape)
        return chosen

    def observe(self, shape: Shape, cost: int, ms: float) -> None:
        """Records the milliseconds that a step of `cost` UNet rows took."""
        measured = self._ms.setdefault(shape, {})
        measured[cost] = ms if cost not in measured else measured[cost] + NEW_WEIGHT * (ms - measured[cost])

    def too_many(self, shape: Shape, cost: int) -> None:
        """Records that the device has too little memory for `cost` UNet rows: from now on at most half as many."""
        self._most[shape] = max(1, cost // 2)

    def _fits(self, shape: Shape, cost: int, less: int) -> bool:
        """Whether a step of `cost` UNet rows is expected to be in time; `less` is its cost without the last image."""
        if self._limit == float("inf"):
            return True
        measured = self._ms.get(shape, {})
        if any(ms <= self._limit for rows, ms in measured.items() if rows >= cost):
            return True
        if any(ms > self._limit for rows, ms in measured.items() if rows <= cost):
            return False
        return less <= max(measured, default=0) and self._extrapolated(measured, cost) <= self._limit

    def _decay_slowest(self, shape: Shape) -> None:
        measured = self._ms.get(shape, {})
        slow = [rows for rows, ms in measured.items() if ms > self._limit]
        if slow:
            measured[min(slow)] *= DECAY

    @staticmethod
    def _extrapolated(measured: dict[int, float], cost: int) -> float:
        """Milliseconds of a larger step, on the line through the two largest measured; of a single one, its own."""
        *_, last = sorted(measured)
        before = [rows for rows in measured if rows < last]
        if not before:
            return measured[last]
        slope = (measured[last] - measured[max(before)]) / (last - max(before))
        return measured[last] + max(0.0, slope) * (cost - last)
