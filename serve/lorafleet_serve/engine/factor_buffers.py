"""Buffers with the adapters' factors of a batch's rows: written when a row comes to a position, read at every step.

Knows rows' adapters and columns; refuses to know the order of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorafleet.numerics.factors import Stacked
from lorafleet_serve.adapters.layout import ColumnLayout, scatter
from lorafleet_serve.engine.rows import Row

Extent = tuple[int, tuple[slice, ...], tuple[slice, ...]]
"""What one plain LoRA covers of a buffer's position: ranks up to this, and these columns of A and of B."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Factors by position, rank and column, B transposed; the gain of DoRA by position and column of B."""

    A: Tensor
    B: Tensor
    gain: Tensor
    extents: dict[int, Extent | None] = field(default_factory=dict)
    """What was written, by position; None for anything but one plain LoRA."""
    rows: dict[int, int] = field(default_factory=dict)
    """The id of the row whose adapters are at a position."""

    def write(self, position: int, row: Row) -> bool:
        """Writes a row's adapters: ranks side by side, each gain on all before it, as `factors.stack` does.

        False if they are there already.
        """
        if self.rows.get(position) == row.id:
            return False
        self.rows.pop(position, None)  # so that a write that fails half-way is done again
        A, B, gain = self.A[position], self.B[position], self.gain[position]
        self._clear(position, _extent(row))
        start = 0
        for adapter, scale in row.adapters:
            a, b, g = adapter.factors.parts(scale)
            if g is not None:
                own = torch.ones_like(gain)
                scatter(own, adapter.B_runs, g)
                gain.mul_(own)
                B[:start].mul_(own)
            ranks = slice(start, start + adapter.rank)
            scatter(A[ranks], adapter.A_runs, a)
            scatter(B[ranks], adapter.B_runs, b.mT)
            start = ranks.stop
        self.rows[position] = row.id
        return True

    def _clear(self, position: int, extent: Extent | None) -> None:
        """Zeroes what was written here and will not be overwritten: mostly a few ranks or nothing, else all."""
        fresh, before = position not in self.extents, self.extents.get(position)
        self.extents[position] = extent
        if fresh:
            return
        if extent is None or before is None or before[1:] != extent[1:]:
            self.A[position].zero_()
            self.B[position].zero_()
            self.gain[position].fill_(1)
        elif extent[0] < before[0]:
            for wide, runs in zip((self.A[position], self.B[position]), extent[1:], strict=True):
                for run in runs:
                    wide[extent[0] : before[0], run].zero_()

    def stacked(
        self, columns: ColumnLayout, names: frozenset[str], positions: slice, gains: bool
    ) -> dict[str, Stacked]:
        """Views of some layers of some positions; of convolutions copies of A, whose kernels must be contiguous."""
        A, B, gain = self.A[positions], self.B[positions], self.gain[positions]
        layers = {}
        for name in names:
            a, b = columns.A[name], columns.B[name]
            down = A[..., a] if a.start < columns.linear[0] else A[..., a].contiguous()
            layers[name] = Stacked(down, B[..., b].mT, gain[:, b] if gains else None)
        return layers


def _extent(row: Row) -> Extent | None:
    if len(row.adapters) != 1 or row.adapters[0][0].factors.m is not None:
        return None
    adapter, _ = row.adapters[0]
    return adapter.rank, adapter.A_runs, adapter.B_runs


def power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller than `number`."""
    return 1 << (number - 1).bit_length()


def padded_rank(rank: int) -> int:
    """Ranks are padded to a power of two, so that few joins change the buffers' shape; 0 stays 0."""
    return power_of_two(rank) if rank else 0
