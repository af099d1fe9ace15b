"""An adapter's UNet layers as a few flat tensors, so that one copy moves it to the device and a few seat it in a batch.

    A [r, a_1 + a_2 + ...]   every layer's A side by side          B [b_1 + b_2 + ..., r]   every layer's B, likewise

The columns of an adapter are those of the layers that it has. Layers are ordered by the ends of their names, which
targets are chosen by, so that they are a handful of runs among all columns; convolutions, which few touch, come last.
Knows factors; refuses to know devices' budgets and which row uses what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from lorafleet.numerics.factors import Factors, Layers
from lorafleet.numerics.rowlora import LayerShape

Columns = Mapping[str, slice]


@dataclass(frozen=True)
class Layout:
    """Where each layer lies among the columns of A and among those of B."""

    A: Columns
    B: Columns
    widths: tuple[int, int]
    """All columns of A, and of B."""
    linear: tuple[int, int]
    """Those of linear layers."""

    @classmethod
    def of(cls, shapes: Mapping[str, LayerShape]) -> Layout:
        """Lays out layers by their shapes."""
        names = sorted(shapes, key=lambda name: (len(shapes[name]), name.split(".")[-2:], name))
        A, a = _side_by_side(names, [shapes[name][0] * prod(shapes[name][2:]) for name in names])
        B, b = _side_by_side(names, [shapes[name][1] for name in names])
        ends = [(A[name].stop, B[name].stop) for name in names if len(shapes[name]) == 2]
        return cls(A, B, (a, b), ends[-1] if ends else (0, 0))

    def reach(self, adapters: Iterable[FlatAdapter]) -> tuple[int, int]:
        """How many columns of A and of B these need: all, or where none touches a convolution the linear layers'."""
        return self.widths if any(one.A_runs[-1].stop > self.linear[0] for one in adapters) else self.linear


@dataclass(frozen=True, eq=False)
class FlatAdapter:
    """One adapter on the UNet, of one rank in all its layers."""

    layers: frozenset[str]
    factors: Factors
    """A [r, its columns], B [its columns, r]; for DoRA m and norms over B's columns."""
    A_runs: tuple[slice, ...]
    """Its columns among all of A's; in order, neighbours joined."""
    B_runs: tuple[slice, ...]

    @classmethod
    def of(cls, layers: Layers, layout: Layout, dtype: torch.dtype) -> FlatAdapter:
        """Lays out one adapter's layers; DoRA's norms must be worked out. A and B in `dtype`, the rest fp32."""
        A_names, B_names = ([name for name in columns if name in layers] for columns in (layout.A, layout.B))
        rank = max(factors.A.shape[0] for factors in layers.values())
        A = torch.cat([_padded(layers[name].A.to(dtype), rank) for name in A_names], dim=1)
        B = torch.cat([_padded(layers[name].B.mT.to(dtype), rank) for name in B_names], dim=1).mT
        m = norms = None
        if any(factors.m is not None for factors in layers.values()):
            parts = [_magnitude(layers[name]) for name in B_names]
            m, norms = torch.cat([one for one, _ in parts]), torch.cat([one for _, one in parts], dim=1)
        runs = _runs(layout.A[name] for name in A_names), _runs(layout.B[name] for name in B_names)
        return cls(frozenset(layers), Factors(A, B, m, norms), *runs)

    @property
    def rank(self) -> int:
        """The rank that it has, or is padded to where layers differ."""
        return self.factors.A.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.factors.tensors())

    def to(self, device: torch.device) -> FlatAdapter:
        """The same on a device, without waiting where the host's memory is pinned."""
        return FlatAdapter(self.layers, self.factors.to(device=device, non_blocking=True), self.A_runs, self.B_runs)

    def pinned(self) -> FlatAdapter:
        """The same in page-locked host memory, from which a GPU reads at full speed."""
        f = self.factors
        m, norms = (None if tensor is None else tensor.pin_memory() for tensor in (f.m, f.norms))
        factors = Factors(f.A.pin_memory(), f.B.mT.pin_memory().mT, m, norms)
        return FlatAdapter(self.layers, factors, self.A_runs, self.B_runs)


def scatter(wide: Tensor, runs: Sequence[slice], narrow: Tensor) -> None:
    """Copies `narrow` [..., an adapter's columns] to those columns of `wide` [..., all columns]."""
    start = 0
    for run in runs:
        stop = start + run.stop - run.start
        wide[..., run].copy_(narrow[..., start:stop])
        start = stop


def _side_by_side(names: Sequence[str], widths: Sequence[int]) -> tuple[dict[str, slice], int]:
    found, start = {}, 0
    for name, width in zip(names, widths, strict=True):
        found[name] = slice(start, start + width)
        start += width
    return found, start


def _runs(columns: Iterable[slice]) -> tuple[slice, ...]:
    found: list[slice] = []
    for one in columns:
        if found and found[-1].stop == one.start:
            found[-1] = slice(found[-1].start, one.stop)
        else:
            found.append(one)
    return tuple(found)


def _padded(A: Tensor, rank: int) -> Tensor:
    return A if A.shape[0] == rank else torch.cat([A, A.new_zeros(rank - A.shape[0], A.shape[1])])


def _magnitude(factors: Factors) -> tuple[Tensor, Tensor]:
    """The m [out] and norms [3, out]; of a layer without DoRA those that gain 1 at every scale."""
    if factors.m is not None and factors.norms is not None:
        return factors.m, factors.norms
    ones = torch.ones(factors.B.shape[0])
    return ones, torch.stack([ones, torch.zeros_like(ones), torch.zeros_like(ones)])
