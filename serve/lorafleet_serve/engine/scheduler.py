"""How a step is filled: which rows' turn it is, and how many of them. Pure decisions from what was seen so far.

Knows shapes, numbers of rows and milliseconds; refuses to know clocks, tensors and requests.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

Shape = TypeVar("Shape", bound=Hashable)
NEW_WEIGHT = 0.3
"""Of a new measurement against those before it."""
DOUBT = 0.998
"""What a time over the limit is multiplied by whenever it turns rows away: one slow step is not believed for ever."""


class RoundRobin(Generic[Shape]):
    """Which shape steps next: they queue, a new one behind those that wait, so that none waits longer than a round."""

    def __init__(self) -> None:
        self._queue: list[Shape] = []

    def next(self, shapes: Collection[Shape]) -> Shape:
        """The shape whose turn it is among those present; it goes to the end of the queue."""
        waiting = [shape for shape in self._queue if shape in shapes]
        waiting += [shape for shape in dict.fromkeys(shapes) if shape not in waiting]
        self._queue = [*waiting[1:], waiting[0]]
        return waiting[0]


class StepBudget(Generic[Shape]):
    """How many rows may step together so that a step stays within `max_step_ms`, learned from the steps taken.

    Costs are UNet rows. A step grows by one image beyond what was measured, and only while the two largest
    measurements leave room for it by their slope.
    """

    def __init__(self, max_step_ms: float | None = None) -> None:
        self._limit = float("inf") if max_step_ms is None else max_step_ms
        self._ms: dict[Shape, dict[int, float]] = {}
        self._most: dict[Shape, int] = {}

    def choose(self, shape: Shape, costs: Sequence[int]) -> int:
        """How many of the rows with these costs, first come first served, step now; at least 1."""
        totals = list(accumulate(costs))
        most = self._most.get(shape, totals[-1])
        chosen = 1
        for n in range(len(totals), 1, -1):
            if totals[n - 1] <= most and self._fits(shape, totals[n - 1], totals[n - 2]):
                chosen = n
                break
        if chosen < len(totals):
            self._doubt(shape)
        return chosen

    def observe(self, shape: Shape, cost: int, ms: float) -> None:
        """Learns what a step of that many UNet rows took."""
        known = self._ms.setdefault(shape, {})
        known[cost] = ms if cost not in known else known[cost] + NEW_WEIGHT * (ms - known[cost])

    def too_many(self, shape: Shape, cost: int) -> None:
        """Learns that the device has no memory for so many: from now on at most half."""
        self._most[shape] = max(1, cost // 2)

    def _fits(self, shape: Shape, cost: int, less: int) -> bool:
        """Whether a step of `cost` rows is believed to be in time; `less` is the same without its last image."""
        if self._limit == float("inf"):
            return True
        known = self._ms.get(shape, {})
        if any(ms <= self._limit for rows, ms in known.items() if rows >= cost):
            return True
        if any(ms > self._limit for rows, ms in known.items() if rows <= cost):
            return False
        return less <= max(known, default=0) and self._extrapolated(known, cost) <= self._limit

    def _doubt(self, shape: Shape) -> None:
        known = self._ms.get(shape, {})
        slow = [rows for rows, ms in known.items() if ms > self._limit]
        if slow:
            known[min(slow)] *= DOUBT

    @staticmethod
    def _extrapolated(known: dict[int, float], cost: int) -> float:
        """Milliseconds of a larger step by the two largest measured; of one alone as much as that."""
        *_, last = sorted(known)
        before = [rows for rows in known if rows < last]
        if not before:
            return known[last]
        slope = (known[last] - known[max(before)]) / (last - max(before))
        return known[last] + max(0.0, slope) * (cost - last)
