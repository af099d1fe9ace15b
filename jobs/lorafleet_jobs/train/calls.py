"""How the jobs of a pack share calls of the base: as many as there are, or in seats that are always all taken.

Knows how many groups of rows a call has and what shapes their adapters come in; refuses to know losses and gradients.
A matrix product's last bits depend on its shape, never on a neighbour's rows. So with seats, where every call has one
shape, a job's result is the same to the bit whoever sits beside it, and a compiled UNet is never compiled again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class SharedCalls:
    """As many jobs a call as there are; fewer where that many did not fit in memory before."""

    unet: Callable[..., Any] | None = None
    """What answers instead of the base's own UNet."""

    def __init__(self) -> None:
        self._most: dict[Shape, int] = {}

    def split(self, shape: Shape, asked: Sequence[T]) -> list[Sequence[T]]:
        """The calls that it takes to ask so many."""
        most = self._most.get(shape, len(asked))
        return [asked[i : i + most] for i in range(0, len(asked), most)]

    def overflowed(self, shape: Shape, jobs: int) -> None:
        """So many jobs of a shape did not fit; from now on half as many share a call."""
        self._most[shape] = max(1, jobs // 2)

    def seated(self, shape: Shape, asked: Sequence[T]) -> Sequence[T]:
        """Who takes part in a call: those who ask, first."""
        return asked

    def conditioning(self, jobs: Sequence[Prompted]) -> list[Conditioning]:
        """Each job's captions as conditioning."""
        return conditioning_of(jobs)

    def layers(self, stacked: Mapping[str, Stacked], lora: RowLoRA) -> Mapping[str, Stacked]:
        """The factors as the base will carry them."""
        return stacked


class SeatedCalls(SharedCalls):
    """Every call has all seats taken: free ones are parked, repeating the first job's rows for an answer nobody reads.

    Factors come in the widest rank met so far, at least `rank`, on all layers met so far. `compiled` puts
    `torch.compile` around the UNet, `backend` as there.
    """

    def __init__(
        self, warm: LoadedBase, seats: int, rank: int = 0, compiled: bool = False, backend: str = "inductor"
    ) -> None:
        super().__init__()
        self.seats = seats
        self._rank, self._gains, self._layers = rank, False, dict[str, None]()
        if compiled:
            self.unet = torch.compile(warm.unet, dynamic=False, backend=backend)

    def split(self, shape: Shape, asked: Sequence[T]) -> list[Sequence[T]]:
        """At most so many a call as there are seats."""
        self._most.setdefault(shape, self.seats)
        return super().split(shape, asked)

    def seated(self, shape: Shape, asked: Sequence[T]) -> Sequence[T]:
        """Those who ask, then the first once more for each free seat."""
        return [*asked, *[asked[0]] * (self._most[shape] - len(asked))]

    def conditioning(self, jobs: Sequence[Prompted]) -> list[Conditioning]:
        """Each job's captions in calls of its own: how many captions there are differs from step to step."""
        return [conditioning_of([job])[0] for job in jobs]

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
