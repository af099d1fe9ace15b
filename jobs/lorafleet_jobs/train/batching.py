"""How the jobs of a pack call the base: as many together as there are, each alone, or so many that nothing recompiles.

Knows how many groups of rows a call has and what shapes their adapters come in; refuses to know losses and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.factors import Stacked
from lorafleet.numerics.rowlora import RowDropout, RowLoRA
from lorafleet.numerics.text import Conditioning
from lorafleet_jobs.train.prompts import JobPrompts, conditioning_of

T = TypeVar("T")
Shape = tuple[object, ...]
"""What micro-batches of one call have in common."""
Prompted = tuple[JobPrompts, Sequence[str], RowDropout | None]


PATIENCE = 100
"""Calls of a size that fitted before a larger one is tried again; twice as many after each time it did not."""


MOST_SHAPES = 256
"""Shapes of calls that are compiled; beyond its own default of 8 torch would call the rest uncompiled.

Aspect buckets alone have 17 at 1024 pixels, and batch sizes, checkpointing and long captions multiply them.
"""


@dataclass
class SizeLimit:
    """How many jobs share a call of one shape, since more did not fit in memory."""

    jobs: int
    patience: int = PATIENCE
    fitted: int = 0
    """Calls of so many jobs since the limit was set."""

    def tried(self) -> None:
        """A call of so many jobs fitted; after enough of them twice as many are tried, for what was in the way may go.

        What is in the way may be a preview's or another process's memory, or a neighbour in the pack that has ended.
        """
        self.fitted += 1
        if self.fitted >= self.patience:
            self.jobs, self.fitted = 2 * self.jobs, 0

    def halved(self, jobs: int) -> None:
        """A call of so many jobs did not fit."""
        self.jobs, self.patience, self.fitted = max(1, jobs // 2), 2 * self.patience, 0


class DynamicBatching:
    """As many jobs a call as there are; fewer where that many did not fit in memory not long ago."""

    unet: Callable[..., Any] | None = None
    """What answers instead of the base's own UNet."""

    def __init__(self) -> None:
        self._limits: dict[Shape, SizeLimit] = {}

    def split(self, shape: Shape, asked: Sequence[T]) -> list[Sequence[T]]:
        """The calls that it takes to ask so many."""
        limit = self._limits.get(shape)
        most = len(asked) if limit is None else limit.jobs
        return [asked[i : i + most] for i in range(0, len(asked), most)]

    def overflowed(self, shape: Shape, jobs: int) -> None:
        """So many jobs of a shape did not fit; from now on half as many share a call, until more are tried again."""
        if (limit := self._limits.get(shape)) is None:
            self._limits[shape] = SizeLimit(max(1, jobs // 2))
        else:
            limit.halved(jobs)

    def fitted(self, shape: Shape, jobs: int) -> None:
        """A call of so many jobs fitted."""
        limit = self._limits.get(shape)
        if limit is not None and jobs >= limit.jobs:
            limit.tried()

    def seated(self, shape: Shape, asked: Sequence[T]) -> Sequence[T]:
        """Who takes part in a call: those who ask, first."""
        return asked

    def conditioning(self, jobs: Sequence[Prompted]) -> list[Conditioning]:
        """Each job's captions as conditioning."""
        return conditioning_of(jobs)

    def layers(self, stacked: Mapping[str, Stacked], lora: RowLoRA) -> Mapping[str, Stacked]:
        """The factors as the base will carry them."""
        return stacked


class ExactBatching(DynamicBatching):
    """Each job has calls of its own, which are what they would be if it trained alone: so its bits are too.

    Several jobs in one call cannot promise that: kernels give a row other last bits at another place of a batch.
    """

    def split(self, shape: Shape, asked: Sequence[T]) -> list[Sequence[T]]:
        """One call for each."""
        return [asked[i : i + 1] for i in range(len(asked))]


class CompiledBatching(DynamicBatching):
    """Calls of a UNet that is compiled once, though jobs join and leave: every call has the same number of seats.

    Free seats are parked, repeating the first job's rows for an answer nobody reads. Factors come in the widest rank
    met so far, at least `rank`, on all layers met so far.
    """

    def __init__(
        self, warm: LoadedBase, seats: int, rank: int = 0, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        """`backend` is torch.compile's."""
        super().__init__()
        self.seats = seats
        self._rank, self._gains, self._layers = rank, False, dict[str, None]()
        self.unet = torch.compile(  # type: ignore[call-overload]  # the stubs do not know the limit
            warm.unet, dynamic=False, backend=backend, recompile_limit=MOST_SHAPES
        )

    def split(self, shape: Shape, asked: Sequence[T]) -> list[Sequence[T]]:
        """At most so many a call as there are seats."""
        most = self._seats(shape)
        return [asked[i : i + most] for i in range(0, len(asked), most)]

    def fitted(self, shape: Shape, jobs: int) -> None:
        """Nothing: another number of seats would be compiled anew."""

    def seated(self, shape: Shape, asked: Sequence[T]) -> Sequence[T]:
        """Those who ask, then the first once more for each free seat."""
        return [*asked, *[asked[0]] * (self._seats(shape) - len(asked))]

    def _seats(self, shape: Shape) -> int:
        return self._limits[shape].jobs if shape in self._limits else self.seats

    def layers(self, stacked: Mapping[str, Stacked], lora: RowLoRA) -> Mapping[str, Stacked]:
        """Contiguous, padded to what the widest pack so far had; a layer that nobody adapts adds zero."""
        if not stacked:
            return stacked
        self._rank = max(self._rank, *(layer.A.shape[-2] for layer in stacked.values()))
        self._gains = self._gains or any(layer.gain is not None for layer in stacked.values())
        self._layers |= dict.fromkeys(stacked)
        like = next(iter(stacked.values())).A
        shapes = lora.linear
        return {name: self._padded(stacked.get(name), shapes[name], like) for name in self._layers}

    def _padded(self, layer: Stacked | None, shape: tuple[int, int], like: Tensor) -> Stacked:
        groups, (n_in, n_out) = len(like), shape
        if layer is None:
            layer = Stacked(_blank(like, groups, 0, n_in), _blank(like, groups, n_out, 0))
        more = self._rank - layer.A.shape[-2]
        gain = layer.gain
        if gain is None and self._gains:
            gain = _blank(like, groups, n_out) + 1
        return Stacked(pad(layer.A, (0, 0, 0, more)).contiguous(), pad(layer.B, (0, more)).contiguous(), gain)


def _blank(like: Tensor, *shape: int) -> Tensor:
    """Zeros that a compiled graph cannot tell from a job's own."""
    return torch.zeros(shape, dtype=like.dtype, device=like.device, requires_grad=like.requires_grad)
