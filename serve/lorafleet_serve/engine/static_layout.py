"""Batches of few shapes, whose factors stay where they are in memory: what a recorded step needs.

    images   1, 2, 4, 8 ...; those that fill up repeat the first one, and nobody reads them
    rows     a guidance pair for each image, and factors for each pair, zeros for images without adapters
    layers   all that any adapter had so far, at the highest rank so far

Knows rows and buffers; refuses to know graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from lorafleet_serve.adapters.layout import ColumnLayout
from lorafleet_serve.engine.batch_layout import Batch, BatchLayout, reorder
from lorafleet_serve.engine.factor_buffers import Factors, padded_rank, power_of_two
from lorafleet_serve.engine.rows import Row


class StaticLayout(BatchLayout):
    """The batches of one call. Those with an unguided image, or LoRA on convolutions, are `BatchLayout`'s."""

    def __init__(
        self, columns: ColumnLayout, device: torch.device, dtype: torch.dtype, forget: Callable[[], None]
    ) -> None:
        """`forget` is called before buffers are replaced by wider ones, for who remembers the old ones."""
        super().__init__(columns, device, dtype)
        self._forget = forget
        self._rank, self._names, self._gains = 0, frozenset[str](), False
        self._buffers: dict[int, Factors] = {}
        """By number of positions, all of the present rank."""

    @torch.inference_mode()
    def batch(self, rows: Sequence[Row]) -> Batch:
        """The batch of these rows, padded to a power of two."""
        adapters = [adapter for row in rows for adapter, _ in row.adapters]
        if not all(row.guided for row in rows) or self._columns.reach(adapters) != self._columns.linear:
            return super().batch(rows)
        by_id = {row.id: row for row in rows}
        self._order = reorder(self._order, dict.fromkeys(by_id, 0))
        ordered, positions = [by_id[number] for number in self._order], power_of_two(len(rows))
        self._widen(rows)
        if not self._rank:
            return replace(self._assemble(rows, ordered, (), positions - len(rows)), captured=())
        if positions not in self._buffers:
            self._buffers[positions] = self._zeros(positions, self._rank, self._columns.linear)
        factors = self._buffers[positions]
        self._write(factors, ordered)
        stacked = factors.stacked(self._columns, self._names, slice(0, positions), self._gains)
        batch = self._assemble(rows, ordered, ((slice(0, 2 * positions), stacked),), positions - len(rows))
        return replace(batch, captured=(factors, self._names, self._gains))

    def _widen(self, rows: Sequence[Row]) -> None:
        adapters = [adapter for row in rows for adapter, _ in row.adapters]
        self._names = self._names.union(*(adapter.layers for adapter in adapters))
        self._gains = self._gains or any(adapter.factors.m is not None for adapter in adapters)
        rank = padded_rank(max(row.rank for row in rows))
        if rank > self._rank:
            self._rank = rank
            self._buffers.clear()
            self._forget()
