"""Where rows sit in the batch of one UNet call, and their adapters' factors gathered there while they sit.

    kind 0       kind 1       kind 2     kind 3
    [u c][u c]   [c][c][c]    [u c]      [c][c]        u: unconditional, c: conditional UNet row of an image
    adapters     adapters     base       base

Rows of the base add nothing to a layer and unguided ones are one UNet row. When a row joins or leaves, those that keep
their seat keep their factors where they are; only who moved is written anew, from the adapters' slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorafleet.numerics.factors import Stacked
from lorafleet.numerics.text import Conditioning
from lorafleet_serve.adapters.layout import Layout, scatter
from lorafleet_serve.engine.rows import Row

Spans = tuple[tuple[slice, dict[str, Stacked]], ...]
Mark = tuple[int, tuple[slice, ...], tuple[slice, ...]]
"""Where in a seat one plain LoRA was written: ranks up to this, and these columns of A and of B."""


def reseat(before: Sequence[int], kinds: Mapping[int, int]) -> list[int]:
    """The order of rows by kind; within that, whoever can stays where it sat in `before`."""
    places = sorted(kinds.values())
    order: list[int | None] = [
        row if kinds.get(row) == kind else None
        for kind, row in zip(places, [*before[: len(places)], *[-1] * (len(places) - len(before))], strict=True)
    ]
    standing = {kind: [row for row, own in kinds.items() if own == kind and row not in order] for kind in set(places)}
    return [standing[kind].pop(0) if row is None else row for kind, row in zip(places, order, strict=True)]


@dataclass(frozen=True, eq=False)
class Batch:
    """What stays the same from step to step while the same rows step together."""

    ids: tuple[int, ...]
    """The rows in the order they were given, which is that of their state."""
    told: Conditioning
    """Of each UNet row."""
    time_ids: Tensor
    rows: Tensor
    """[UNet rows]: whose latent each shows."""
    u: Tensor
    """[rows]: where each row's unconditional output is; the conditional one where it has none."""
    c: Tensor
    spans: Spans


class BatchLayout:
    """The batch of one call: its order, and buffers [seats, R, columns] with the factors of those who sit there."""

    def __init__(self, layout: Layout, device: torch.device, dtype: torch.dtype) -> None:
        self._layout, self._device, self._dtype = layout, device, dtype
        self._order: list[int] = []
        self._factors: _Factors | None = None
        self.written = 0
        """How many times a row's factors were gathered."""

    @torch.inference_mode()
    def batch(self, rows: Sequence[Row]) -> Batch:
        """Seats these rows in place of those before."""
        by_id = {row.id: row for row in rows}
        kinds = {row.id: 2 * (not row.worn) + (not row.guided) for row in rows}
        before, self._order = self._order, reseat(self._order, kinds)
        seated = [by_id[one] for one in self._order]
        adapted = [row for row in seated if row.worn]
        self._gather(adapted, before)
        return self._assembled(rows, seated, self._spans(adapted))

    def _gather(self, adapted: Sequence[Row], before: Sequence[int]) -> None:
        if not adapted:
            self._factors = None
            return
        seats, rank = _power_of_two(len(adapted)), _padded_rank(max(row.rank for row in adapted))
        a, b = self._layout.reach(adapter for row in adapted for adapter, _ in row.worn)
        held, fresh = self._factors, False
        if held is None or held.A.shape != (seats, rank, a):
            self._factors = None  # gone before the next are made
            A, B = (torch.zeros(seats, rank, width, device=self._device, dtype=self._dtype) for width in (a, b))
            held, fresh = _Factors(A, B, torch.ones(seats, b, device=self._device)), True
        for seat, row in enumerate(adapted):
            if fresh or seat >= len(before) or before[seat] != row.id:
                held.write(seat, row)
                self.written += 1
        self._factors = held

    def _spans(self, adapted: Sequence[Row]) -> Spans:
        if self._factors is None:
            return ()
        pairs = sum(row.guided for row in adapted)
        singles = len(adapted) - pairs
        names = frozenset[str]().union(*(adapter.layers for row in adapted for adapter, _ in row.worn))
        gains = any(adapter.factors.m is not None for row in adapted for adapter, _ in row.worn)
        parts = [(slice(0, 2 * pairs), slice(0, pairs))] if pairs else []
        if singles:
            parts.append((slice(2 * pairs, 2 * pairs + singles), slice(pairs, pairs + singles)))
        return tuple((rows, self._factors.stacked(self._layout, names, seats, gains)) for rows, seats in parts)

    def _assembled(self, rows: Sequence[Row], seated: Sequence[Row], spans: Spans) -> Batch:
        told: list[Conditioning] = []
        whose: list[int] = []
        u, c = [0] * len(rows), [0] * len(rows)
        at = {row.id: i for i, row in enumerate(rows)}
        for row in seated:
            mine = at[row.id]
            u[mine], c[mine] = len(told), len(told) + row.guided
            whose += [mine] * row.unet_rows
            told += [row.negative, row.positive][-row.unet_rows :]
        index = torch.tensor(whose, device=self._device)
        return Batch(
            tuple(row.id for row in rows),
            Conditioning(torch.cat([one.context for one in told]), torch.cat([one.pooled for one in told])),
            torch.cat([row.time_ids for row in rows])[index],
            index,
            torch.tensor(u, device=self._device),
            torch.tensor(c, device=self._device),
            spans,
        )


@dataclass(frozen=True, eq=False)
class _Factors:
    """Factors by seat, rank and column, B transposed; the gain of DoRA by seat and column of B."""

    A: Tensor
    B: Tensor
    gain: Tensor
    marks: dict[int, Mark | None] = field(default_factory=dict)
    """By seat that was written; None where it is not one plain LoRA that sits there."""

    def write(self, seat: int, row: Row) -> None:
        """Seats one row's adapters: ranks side by side, each gain on all that came before it, as `factors.stack`."""
        A, B, gain = self.A[seat], self.B[seat], self.gain[seat]
        self._clear(seat, _mark(row))
        start = 0
        for adapter, scale in row.worn:
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

    def _clear(self, seat: int, mark: Mark | None) -> None:
        """Takes away what sits there and will not be written over: mostly a few ranks or nothing, else all."""
        fresh, before = seat not in self.marks, self.marks.get(seat)
        self.marks[seat] = mark
        if fresh:
            return
        if mark is None or before is None or before[1:] != mark[1:]:
            self.A[seat].zero_()
            self.B[seat].zero_()
            self.gain[seat].fill_(1)
        elif mark[0] < before[0]:
            for wide, runs in zip((self.A[seat], self.B[seat]), mark[1:], strict=True):
                for run in runs:
                    wide[mark[0] : before[0], run].zero_()

    def stacked(self, layout: Layout, names: frozenset[str], seats: slice, gains: bool) -> dict[str, Stacked]:
        """Views of some layers of some seats; of convolutions copies of A, whose kernels must lie together."""
        A, B, gain = self.A[seats], self.B[seats], self.gain[seats]
        found = {}
        for name in names:
            a, b = layout.A[name], layout.B[name]
            down = A[..., a] if a.start < layout.linear[0] else A[..., a].contiguous()
            found[name] = Stacked(down, B[..., b].mT, gain[:, b] if gains else None)
        return found


def _mark(row: Row) -> Mark | None:
    if len(row.worn) != 1 or row.worn[0][0].factors.m is not None:
        return None
    adapter, _ = row.worn[0]
    return adapter.rank, adapter.A_runs, adapter.B_runs


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _padded_rank(rank: int) -> int:
    """Ranks are padded to a power of two, so that few joins change the buffers' shape; 0 stays 0."""
    return _power_of_two(rank) if rank else 0
