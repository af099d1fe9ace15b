"""How the jobs of a pack share calls of the base: all in one, each in its own, or in calls of few different shapes.

Knows how many jobs a call has, what to do if they do not fit in memory, and the layout of their factors; refuses to
know losses and gradients.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from lorafleet.config import Resources
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import Calls, CapturedCalls, PlainCalls
from lorafleet.numerics.flat_factors import Layout

T = TypeVar("T")
R = TypeVar("R")
Shape = tuple[object, ...]
"""What micro-batches of one call have in common."""
PATIENCE = 100
"""Calls of a size that fitted before a larger one is tried again; twice as many after each time it did not."""
MOST_SHAPES = 256
"""Shapes of calls that are compiled; beyond its own default of 8 torch would call the rest uncompiled.

Aspect buckets alone have 17 at 1024 pixels, and batch sizes, checkpointing and long captions multiply them.
"""


@dataclass
class SizeLimit:
    """The most jobs that share a call of one shape, because more did not fit in memory."""

    jobs: int
    patience: int = PATIENCE
    fitted: int = 0
    """Calls of so many jobs since the limit was set."""

    def tried(self) -> None:
        """Counts a call of `jobs` jobs that fitted; after `patience` of them twice as many are tried.

        What took the memory may be gone by then: a validation picture, another process, or a job that left the pack.
        """
        self.fitted += 1
        if self.fitted >= self.patience:
            self.jobs, self.fitted = 2 * self.jobs, 0

    def halved(self, jobs: int) -> None:
        """Halves the limit after a call of so many jobs did not fit."""
        self.jobs, self.patience, self.fitted = max(1, jobs // 2), 2 * self.patience, 0


class DynamicBatching:
    """All jobs of one shape in one call; fewer where that many did not fit in memory not long ago."""

    unet: Callable[..., Any] | None = None
    """Called instead of the base's own UNet."""

    def __init__(self, calls: Calls | None = None) -> None:
        """`calls` is how the base is called: plainly, or as a graph that was recorded."""
        self.calls: Calls = calls or PlainCalls()
        self.most_rows = 0
        """Of the calls so far that gradients were taken of; one without gradients takes less memory for as many."""
        self._limits: dict[Shape, SizeLimit] = {}

    @property
    def without_gradients(self) -> DynamicBatching:
        """How calls are shared that nothing is learned from."""
        return self

    def run(
        self, shape: Shape, jobs: Sequence[T], call: Callable[[Sequence[T], Sequence[T], DynamicBatching], R]
    ) -> Iterator[tuple[Sequence[T], R]]:
        """Calls `call(jobs of the call, slots, self)` until every job had its call; yields each call's jobs and result.

        What does not fit in memory together is called again in smaller parts, so `call` must not change anything that
        the next call depends on. Raises torch.OutOfMemoryError if one job alone does not fit.
        """
        for part in self.split(shape, jobs):
            slots = self.slots(shape, part)
            result = self._unless_out_of_memory(part, slots, call)
            if result is None:
                self.overflowed(shape, len(slots))
                yield from self.run(shape, part, call)
                continue
            self.fitted(shape, len(part))
            yield part, result

    def _unless_out_of_memory(
        self, jobs: Sequence[T], slots: Sequence[T], call: Callable[[Sequence[T], Sequence[T], DynamicBatching], R]
    ) -> R | None:
        """None if these jobs do not fit in memory together; raises torch.OutOfMemoryError if one alone does not.

        When it returns None, nothing of the failed call is held any more: its exception, whose traceback keeps every
        frame and so every activation alive, is gone, and the allocator's cache has been emptied.
        """
        try:
            return call(jobs, slots, self)
        except torch.OutOfMemoryError:
            if len(slots) == 1:
                raise
        self.calls.clear()  # graphs keep their memory
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def split(self, shape: Shape, jobs: Sequence[T]) -> list[Sequence[T]]:
        """The jobs of each call."""
        limit = self._limits.get(shape)
        most = len(jobs) if limit is None else limit.jobs
        return [jobs[i : i + most] for i in range(0, len(jobs), most)]

    def overflowed(self, shape: Shape, jobs: int) -> None:
        """Notes that so many jobs of a shape did not fit: half as many share a call until more are tried again."""
        if (limit := self._limits.get(shape)) is None:
            self._limits[shape] = SizeLimit(max(1, jobs // 2))
        else:
            limit.halved(jobs)

    def fitted(self, shape: Shape, jobs: int) -> None:
        """Notes that a call of so many jobs fitted."""
        limit = self._limits.get(shape)
        if limit is not None and jobs >= limit.jobs:
            limit.tried()

    def slots(self, shape: Shape, jobs: Sequence[T]) -> Sequence[T]:
        """The job of each slot of a call's batch: the jobs themselves first, then whatever fills it up."""
        return jobs

    def layout(self, layouts: Sequence[Layout]) -> Layout:
        """The layout in which a call has the factors of jobs of these layouts."""
        return Layout.covering(layouts)


class ExactBatching(DynamicBatching):
    """Each job has a call of its own, the same as if it trained alone, so that its results are the same to the bit.

    Several jobs in one call cannot promise that: kernels round a row differently at another index of a batch.
    """

    def split(self, shape: Shape, jobs: Sequence[T]) -> list[Sequence[T]]:
        """One job a call."""
        return [jobs[i : i + 1] for i in range(len(jobs))]


class StaticBatching(DynamicBatching):
    """Calls of few shapes though jobs join and leave: 1, 2, 4, 8 ... slots, and factors of one layout.

    The layout is the widest that was met so far. Free slots repeat the first job's rows, and their output is not read.
    """

    def __init__(self, calls: Calls | None = None, rank: int = 1) -> None:
        """`rank` is the least rank of the layout: the highest of all jobs to come, if that is known."""
        super().__init__(calls)
        self._widest = Layout((), max(1, rank))

    def split(self, shape: Shape, jobs: Sequence[T]) -> list[Sequence[T]]:
        """As many jobs a call as there are slots, at most a quarter of the slots free."""
        limit, parts, start = self._limits.get(shape), list[Sequence[T]](), 0
        while start < len(jobs):
            count = slots_for(len(jobs) - start, None if limit is None else limit.jobs)
            parts.append(jobs[start : start + count])
            start += count
        return parts

    def slots(self, shape: Shape, jobs: Sequence[T]) -> Sequence[T]:
        """The jobs, then the first one again for each free slot."""
        return [*jobs, *[jobs[0]] * (self._slot_count(shape, len(jobs)) - len(jobs))]

    def layout(self, layouts: Sequence[Layout]) -> Layout:
        """The widest layout so far."""
        self._widest = Layout.covering([self._widest, *layouts])
        return self._widest

    def _slot_count(self, shape: Shape, jobs: int) -> int:
        return slots_for(jobs, None)


class CompiledBatching(StaticBatching):
    """Calls of a UNet that is compiled once: every batch has the same number of slots."""

    def __init__(
        self, base: LoadedBase, slots: int, rank: int = 1, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        """`backend` is torch.compile's."""
        super().__init__(rank=rank)
        self._most_slots = slots
        self.unet = torch.compile(  # type: ignore[call-overload]  # the stubs do not know the limit
            base.unet, dynamic=False, backend=backend, recompile_limit=MOST_SHAPES
        )
        self._plain = DynamicBatching()

    @property
    def without_gradients(self) -> DynamicBatching:
        """By the base's own UNet: there are few such calls, of many shapes, and each shape would be compiled."""
        return self._plain

    def split(self, shape: Shape, jobs: Sequence[T]) -> list[Sequence[T]]:
        """As many jobs a call as a batch has slots."""
        most = self._slot_count(shape, len(jobs))
        return [jobs[i : i + most] for i in range(0, len(jobs), most)]

    def fitted(self, shape: Shape, jobs: int) -> None:
        """Changes nothing: a larger batch would have to be compiled."""

    def _slot_count(self, shape: Shape, jobs: int) -> int:
        return self._limits[shape].jobs if shape in self._limits else self._most_slots


def batching_for(base: LoadedBase, resources: Resources, pack: int, rank: int) -> DynamicBatching:
    """How a manifest's resources have the jobs of a pack share calls; `rank` is the highest of all jobs to come."""
    captured = CapturedCalls(base.device) if resources.capture and base.device.type == "cuda" else None
    if resources.exact:
        return ExactBatching(captured)
    if resources.compile:
        return CompiledBatching(base, pack, rank)
    return DynamicBatching() if captured is None else StaticBatching(captured, rank)


def slots_for(jobs: int, most: int | None) -> int:
    """The slots of the next call for so many jobs: the power of two of which at most a quarter stays free.

    6 jobs have a call of 8 slots, 5 one of 4 and one of 1: a row costs less in a larger call, but a free one is waste.
    """
    larger = 1 << (jobs - 1).bit_length()
    slots = larger if 4 * (larger - jobs) <= larger else larger // 2
    return slots if most is None else min(slots, 1 << (most.bit_length() - 1))
