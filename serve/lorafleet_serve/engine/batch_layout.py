"""The order of rows in the batch of one UNet call, and buffers with their adapters' factors in that order.

    kind 0       kind 1       kind 2     kind 3
    [u c][u c]   [c][c][c]    [u c]      [c][c]        u: unconditional, c: conditional UNet row of an image
    adapters     adapters     base       base

Rows of the base add nothing to a layer, and unguided images take one UNet row. When a row joins or leaves, rows that
keep their position keep their factors in the buffers; only rows that moved are written again, from the device cache.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafleet.numerics.factors import Stacked
from lorafleet.numerics.text import Conditioning
from lorafleet_serve.adapters.layout import ColumnLayout
from lorafleet_serve.engine.factor_buffers import Factors, padded_rank, power_of_two
from lorafleet_serve.engine.rows import Row

Slices = tuple[tuple[slice, dict[str, Stacked]], ...]
"""Slices of a batch's UNet rows, each with the factors of its rows by layer; rows in no slice carry no adapter."""


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
    padding: int = 0
    """How many images were added that nobody asked for; they repeat the first."""
    captured: Hashable | None = None
    """What a recorded step reads beside its inputs; None if it must not be recorded."""


class BatchLayout:
    """The batches of one call: the order of its rows, and buffers [positions, R, columns] with their factors."""

    def __init__(self, columns: ColumnLayout, device: torch.device, dtype: torch.dtype) -> None:
        self._columns, self._device, self._dtype = columns, device, dtype
        self._order: list[int] = []
        self._factors: Factors | None = None
        self.written = 0
        """How many times a row's factors were written to the buffers."""

    @torch.inference_mode()
    def batch(self, rows: Sequence[Row]) -> Batch:
        """The batch of these rows, which take the positions of those before."""
        by_id = {row.id: row for row in rows}
        kinds = {row.id: 2 * (not row.adapters) + (not row.guided) for row in rows}
        self._order = reorder(self._order, kinds)
        ordered = [by_id[number] for number in self._order]
        adapted = [row for row in ordered if row.adapters]
        self._gather(adapted)
        return self._assemble(rows, ordered, self._slices(adapted))

    def _gather(self, adapted: Sequence[Row]) -> None:
        if not adapted:
            self._factors = None
            return
        positions, rank = power_of_two(len(adapted)), padded_rank(max(row.rank for row in adapted))
        a, b = self._columns.reach(adapter for row in adapted for adapter, _ in row.adapters)
        if self._factors is None or self._factors.A.shape != (positions, rank, a):
            self._factors = None  # freed before the next are made
            self._factors = self._zeros(positions, rank, (a, b))
        self._write(self._factors, adapted)

    def _zeros(self, positions: int, rank: int, widths: tuple[int, int]) -> Factors:
        A, B = (torch.zeros(positions, rank, width, device=self._device, dtype=self._dtype) for width in widths)
        return Factors(A, B, torch.ones(positions, widths[1], device=self._device))

    def _write(self, factors: Factors, rows: Sequence[Row]) -> None:
        for position, row in enumerate(rows):
            self.written += factors.write(position, row)

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

    def _assemble(self, rows: Sequence[Row], ordered: Sequence[Row], slices: Slices, padding: int = 0) -> Batch:
        """The batch of `rows`, whose UNet rows are in the order of `ordered`, and of `padding` copies of the first."""
        conditioning: list[Conditioning] = []
        images: list[int] = []
        u, c = [0] * (len(rows) + padding), [0] * (len(rows) + padding)
        index_of = {row.id: i for i, row in enumerate(rows)}
        places = [(index_of[row.id], row) for row in ordered]
        for i, row in [*places, *((len(rows) + extra, rows[0]) for extra in range(padding))]:
            u[i], c[i] = len(conditioning), len(conditioning) + row.guided
            images += [i] * row.unet_rows
            conditioning += [row.negative, row.positive][-row.unet_rows :]
        index = torch.tensor(images, device=self._device)
        return Batch(
            ids=tuple(row.id for row in rows),
            conditioning=Conditioning.cat(conditioning),
            time_ids=torch.cat([row.time_ids for row in [*rows, *[rows[0]] * padding]])[index],
            rows=index,
            u=torch.tensor(u, device=self._device),
            c=torch.tensor(c, device=self._device),
            slices=slices,
            padding=padding,
        )
