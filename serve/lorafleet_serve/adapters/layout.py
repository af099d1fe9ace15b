"""An adapter's UNet layers as two flat tensors, so that few copies move it to the device and into a batch.

    A [r, a_1 + a_2 + ...]   every layer's A side by side          B [b_1 + b_2 + ..., r]   every layer's B, likewise

The columns of an adapter are those of the layers that it has. Layers are ordered by the ends of their names, by which
targets are chosen, so that an adapter's columns are few contiguous runs among all; convolutions, which few adapters
have, come last. Knows factors; refuses to know how much memory a device has and which row uses what.
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
class ColumnLayout:
    """The columns that each layer of the UNet has, of A and of B, when all layers lie side by side."""

    A: Columns
    B: Columns
    widths: tuple[int, int]
    """How many columns A has, and B."""
    linear: tuple[int, int]
    """How many of them are of linear layers, which come first."""

    @classmethod
    def of(cls, shapes: Mapping[str, LayerShape]) -> ColumnLayout:
        """The layout of layers with these shapes."""
        names = sorted(shapes, key=lambda name: (len(shapes[name]), name.split(".")[-2:], name))
        A, a = _side_by_side(names, [shapes[name][0] * prod(shapes[name][2:]) for name in names])
        B, b = _side_by_side(names, [shapes[name][1] for name in names])
        ends = [(A[name].stop, B[name].stop) for name in names if len(shapes[name]) == 2]
        return cls(A, B, (a, b), ends[-1] if ends else (0, 0))

    def reach(self, adapters: Iterable[FlatAdapter]) -> tuple[int, int]:
        """How many columns of A and of B these adapters need: the linear layers', or all if one has a convolution."""
        return self.widths if any(each.A_runs[-1].stop > self.linear[0] for each in adapters) else self.linear


@dataclass(frozen=True, eq=False)
class FlatAdapter:
    """One adapter on the UNet, with one rank in all its layers."""

    layers: frozenset[str]
    factors: Factors
    """A [r, its columns], B [its columns, r]; for DoRA m and norms over B's columns."""
    A_runs: tuple[slice, ...]
    """Which columns of the layout its A has: in order, contiguous ones joined."""
    B_runs: tuple[slice, ...]

    @classmethod
    def of(cls, layers: Layers, layout: ColumnLayout, dtype: torch.dtype) -> FlatAdapter:
        """Lays out one adapter's layers, whose norms must be computed for DoRA. A and B in `dtype`, the rest fp32."""
        A_names, B_names = ([name for name in columns if name in layers] for columns in (layout.A, layout.B))
        rank = max(factors.A.shape[0] for factors in layers.values())
        A = torch.cat([_padded(layers[name].A.to(dtype), rank) for name in A_names], dim=1)
        B = torch.cat([_padded(layers[name].B.mT.to(dtype), rank) for name in B_names], dim=1).mT
        m = norms = None
        if any(factors.m is not None for factors in layers.values()):
            parts = [_magnitude(layers[name]) for name in B_names]
            m, norms = torch.cat([m for m, _ in parts]), torch.cat([norms for _, norms in parts], dim=1)
        runs = _runs(layout.A[name] for name in A_names), _runs(layout.B[name] for name in B_names)
        return cls(frozenset(layers), Factors(A, B, m, norms), *runs)

    @property
    def rank(self) -> int:
        """Its rank; where layers differ the largest, to which the others are padded."""
        return self.factors.A.shape[0]

    @property
    def nbytes(self) -> int:
        """The bytes of all its tensors."""
        return sum(tensor.nbytes for tensor in self.factors.tensors())

    def to(self, device: torch.device) -> FlatAdapter:
        """A copy on a device; does not wait for the copy if the host's memory is pinned."""
        return FlatAdapter(self.layers, self.factors.to(device=device, non_blocking=True), self.A_runs, self.B_runs)

    def pinned(self) -> FlatAdapter:
        """A copy in page-locked host memory, from which a GPU reads at full speed."""
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
    columns, start = {}, 0
    for name, width in zip(names, widths, strict=True):
        columns[name] = slice(start, start + width)
        start += width
    return columns, start


def _runs(columns: Iterable[slice]) -> tuple[slice, ...]:
    runs: list[slice] = []
    for column in columns:
        if runs and runs[-1].stop == column.start:
            runs[-1] = slice(runs[-1].start, column.stop)
        else:
            runs.append(column)
    return tuple(runs)


def _padded(A: Tensor, rank: int) -> Tensor:
    return A if A.shape[0] == rank else torch.cat([A, A.new_zeros(rank - A.shape[0], A.shape[1])])


def _magnitude(factors: Factors) -> tuple[Tensor, Tensor]:
    """The m [out] and norms [3, out] of a layer; without DoRA values that give a gain of 1 at every scale."""
    if factors.m is not None and factors.norms is not None:
        return factors.m, factors.norms
    ones = torch.ones(factors.B.shape[0])
    return ones, torch.stack([ones, torch.zeros_like(ones), torch.zeros_like(ones)])
