"""The order of rows in the batch of one UNet call, and buffers with their adapters' factors in that order.

    kind 0       kind 1       kind 2     kind 3
    [u c][u c]   [c][c][c]    [u c]      [c][c]        u: unconditional, c: conditional UNet row of an image
    adapters     adapters     base       base

Rows of the base add nothing to a layer, and unguided images take one UNet row. When a row joins or leaves, rows that
keep their position keep their factors in the buffers; only rows that moved are written again, from the device cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorafleet.numerics.factors import Stacked
from lorafleet.numerics.text import Conditioning
from lorafleet_serve.adapters.layout import ColumnLayout, scatter
from lorafleet_serve.engine.rows import Row

Slices = tuple[tuple[slice, dict[str, Stacked]], ...]
"""Slices of a batch's UNet rows, each with the factors of its rows by layer; rows in no slice carry no adapter."""
Extent = tuple[int, tuple[slice, ...], tuple[slice, ...]]
"""What one plain LoRA covers of a buffer's position: ranks up to this, and these columns of A and of B."""


def reorder(before: Sequence[int], kinds: Mapping[int, int]) -> list[int]:
    """The row ids of `kinds` sorted by kind; within a kind, rows keep their position in `before` where possible."""
    wanted = sorted(kinds.values())
    order: list[int | None] = [
        row if kinds.get(row) == kind else None
        for kind, row in zip(wanted, [*before[: len(wanted)], *[-1] * (len(wanted) - len(before))], strict=True)
    ]
    left = {kind: [row for row, own in kinds.items() if own == kind and row not in order] for kind in set(wanted)}
    return [left[kind].pop(0) if row is None else row for kind, row in zip(wanted, order, strict=True)]


@dataclass(frozen=True, eq=False)
class Batch:
    """What stays the same from step to step while the same rows step together."""

    ids: tuple[int, ...]
    """The rows in the order they were given, which is that of their state."""
    conditioning: Conditioning
    """Of each UNet row."""
    time_ids: Tensor
    rows: Tensor
    """[UNet rows]: the index, in `ids`, of the image whose latent this UNet row denoises."""
    u: Tensor
    """[images]: the UNet row of each image's unconditional output; of the conditional one if it is not guided."""
    c: Tensor
    """[images]: the UNet row of each image's conditional output."""
    slices: Slices


class BatchLayout:
    """The batches of one call: the order of its rows, and buffers [positions, R, columns] with their factors."""

    def __init__(self, columns: ColumnLayout, device: torch.device, dtype: torch.dtype) -> None:
        self._columns, self._device, self._dtype = columns, device, dtype
        self._order: list[int] = []
        self._factors: _Factors | None = None
        self.written = 0
        """How many times a row's factors were written to the buffers."""

    @torch.inference_mode()
    def batch(self, rows: Sequence[Row]) -> Batch:
        """The batch of these rows, which take the positions of those before."""
        by_id = {row.id: row for row in rows}
        kinds = {row.id: 2 * (not row.adapters) + (not row.guided) for row in rows}
        before, self._order = self._order, reorder(self._order, kinds)
        ordered = [by_id[number] for number in self._order]
        adapted = [row for row in ordered if row.adapters]
        self._gather(adapted, before)
        return self._assemble(rows, ordered, self._slices(adapted))

    def _gather(self, adapted: Sequence[Row], before: Sequence[int]) -> None:
        if not adapted:
            self._factors = None
            return
        positions, rank = _power_of_two(len(adapted)), _padded_rank(max(row.rank for row in adapted))
        a, b = self._columns.reach(adapter for row in adapted for adapter, _ in row.adapters)
        factors, fresh = self._factors, False
        if factors is None or factors.A.shape != (positions, rank, a):
            self._factors = None  # freed before the next are made
            A, B = (torch.zeros(positions, rank, width, device=self._device, dtype=self._dtype) for width in (a, b))
            factors, fresh = _Factors(A, B, torch.ones(positions, b, device=self._device)), True
        for position, row in enumerate(adapted):
            if fresh or position >= len(before) or before[position] != row.id:
                factors.write(position, row)
                self.written += 1
        self._factors = factors

    def _slices(self, adapted: Sequence[Row]) -> Slices:
        if self._factors is None:
            return ()
        pairs = sum(row.guided for row in adapted)
        singles = len(adapted) - pairs
        names = frozenset[str]().union(*(adapter.layers for row in adapted for adapter, _ in row.adapters))
        gains = any(adapter.factors.m is not None for row in adapted for adapter, _ in row.adapters)
        parts = [(slice(0, 2 * pairs), slice(0, pairs))] if pairs else []
        if singles:
            parts.append((slice(2 * pairs, 2 * pairs + singles), slice(pairs, pairs + singles)))
        return tuple((rows, self._factors.stacked(self._columns, names, own, gains)) for rows, own in parts)

    def _assemble(self, rows: Sequence[Row], ordered: Sequence[Row], slices: Slices) -> Batch:
        conditioning: list[Conditioning] = []
        images: list[int] = []
        u, c = [0] * len(rows), [0] * len(rows)
        index_of = {row.id: i for i, row in enumerate(rows)}
        for row in ordered:
            i = index_of[row.id]
            u[i], c[i] = len(conditioning), len(conditioning) + row.guided
            images += [i] * row.unet_rows
            conditioning += [row.negative, row.positive][-row.unet_rows :]
        index = torch.tensor(images, device=self._device)
        return Batch(
            ids=tuple(row.id for row in rows),
            conditioning=Conditioning.cat(conditioning),
            time_ids=torch.cat([row.time_ids for row in rows])[index],
            rows=index,
            u=torch.tensor(u, device=self._device),
            c=torch.tensor(c, device=self._device),
            slices=slices,
        )


@dataclass(frozen=True, eq=False)
class _Factors:
    """Factors by position, rank and column, B transposed; the gain of DoRA by position and column of B."""

    A: Tensor
    B: Tensor
    gain: Tensor
    extents: dict[int, Extent | None] = field(default_factory=dict)
    """What was written, by position; None for anything but one plain LoRA."""

    def write(self, position: int, row: Row) -> None:
        """Writes a row's adapters: ranks side by side, each gain on all before it, as `factors.stack` does."""
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


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _padded_rank(rank: int) -> int:
    """Ranks are padded to a power of two, so that few joins change the buffers' shape; 0 stays 0."""
    return _power_of_two(rank) if rank else 0
