"""Rows being denoised: their state, the batch they form, one step of it, and which size steps next.

Everything here is per row: table, step index, guidance, noise, adapters. Nothing depends on a row's neighbours. Pure
but for the model's forward; knows no thread and no future.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorafleet.numerics.factors import Stacked, stack
from lorafleet.numerics.samplers import SamplerTable
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import UNET
from lorafleet_serve.pipeline import Pipeline, PlacedAdapter

Size = tuple[int, int]
COEFFICIENTS = ("c_in", "c_skip", "c_out", "A", "B", "C")


@dataclass(frozen=True, eq=False)
class Row:
    """One image between two denoising steps; stepping makes a new one."""

    id: int
    table: SamplerTable
    guidance: float
    adapters: tuple[tuple[PlacedAdapter, float], ...]
    positive: Conditioning
    negative: Conditioning
    time_ids: Tensor
    """[1, 6]."""
    x: Tensor
    """The latent [1, c, h, w], fp32."""
    x0_prev: Tensor
    step: int = 0

    @property
    def size(self) -> Size:
        """Latent height and width."""
        return self.x.shape[-2], self.x.shape[-1]

    @property
    def guided(self) -> bool:
        """Whether the unconditional output matters, as in diffusers."""
        return self.guidance > 1

    @property
    def done(self) -> bool:
        """Whether every step is taken."""
        return self.step == len(self.table)


@dataclass(frozen=True, eq=False)
class Batch:
    """What stays the same from step to step while the same rows step together.

    UNet rows go in pairs [u0, c0, u1, c1, ...], or conditional rows alone if no row is guided.
    """

    ids: tuple[int, ...]
    paired: bool
    conditioning: Conditioning
    time_ids: Tensor
    factors: dict[str, Stacked]

    @classmethod
    def of(cls, rows: Sequence[Row], model: Pipeline) -> Batch:
        """Stacks conditioning and adapter factors of rows of one size."""
        paired = any(row.guided for row in rows)
        told = [part for row in rows for part in ((row.negative, row.positive) if paired else (row.positive,))]
        groups = [[(placed.layers, scale) for placed, scale in row.adapters] for row in rows]
        return cls(
            ids=tuple(row.id for row in rows),
            paired=paired,
            conditioning=Conditioning(torch.cat([c.context for c in told]), torch.cat([c.pooled for c in told])),
            time_ids=torch.cat([row.time_ids for row in rows]).repeat_interleave(2 if paired else 1, dim=0),
            factors=stack(groups),
        )


def _coefficients(rows: Sequence[Row], device: torch.device) -> dict[str, Tensor]:
    """Every row's numbers for its step, each [n, 1, 1, 1], and the timesteps "t" [n]; one copy to the device."""
    names = (*COEFFICIENTS, "t")
    table = [[float(getattr(row.table, name)[row.step]) for row in rows] for name in names]
    table.append([row.guidance for row in rows])
    moved = torch.tensor(table, dtype=torch.float32).to(device)
    found = {name: moved[i].view(-1, 1, 1, 1) for i, name in enumerate((*names, "guidance"))}
    return {**found, "t": moved[len(COEFFICIENTS)]}


@torch.inference_mode()
def advance(rows: Sequence[Row], batch: Batch, model: Pipeline) -> list[Row]:
    """One denoising step of every row in one UNet call; the batch's factors must be installed."""
    k = _coefficients(rows, model.loaded.device)
    each = 2 if batch.paired else 1
    x, x0_prev = torch.cat([row.x for row in rows]), torch.cat([row.x0_prev for row in rows])
    shown = (k["c_in"] * x).repeat_interleave(each, dim=0)
    F = model.loaded.predict(shown, k["t"].repeat_interleave(each), batch.conditioning, batch.time_ids)
    if batch.paired:
        u, c = F[0::2], F[1::2]
        F = torch.where(k["guidance"] > 1, u + k["guidance"] * (c - u), c)  # Ho & Salimans 2022, eq. 6
    x0 = k["c_skip"] * x + k["c_out"] * F
    x = k["A"] * x + k["B"] * x0 + k["C"] * x0_prev
    return [replace(row, x=x[i : i + 1], x0_prev=x0[i : i + 1], step=row.step + 1) for i, row in enumerate(rows)]


class Stepper:
    """Steps rows on one model; remembers each size's batch, so that factors are stacked only when rows change."""

    def __init__(self, model: Pipeline) -> None:
        self._model = model
        self._batches: dict[Size, Batch] = {}
        self._installed: Batch | None = None
        self.stackings = 0
        """How often factors were stacked anew."""

    def step(self, rows: Sequence[Row]) -> list[Row]:
        """One step of rows that share a size."""
        size, ids = rows[0].size, tuple(row.id for row in rows)
        batch = self._batches.get(size)
        if batch is None or batch.ids != ids:
            batch = self._batches[size] = Batch.of(rows, self._model)
            self.stackings += 1
        if self._installed is not batch:
            self._model.loaded.lora[UNET].set(batch.factors)
            self._installed = batch
        return advance(rows, batch, self._model)

    def keep(self, sizes: Collection[Size]) -> None:
        """Lets go of batches of sizes that no row has any more."""
        self._batches = {size: batch for size, batch in self._batches.items() if size in sizes}
        if self._installed is not None and self._installed not in self._batches.values():
            self._model.loaded.lora[UNET].set(None)
            self._installed = None


class Turns:
    """Which latent size steps next: they queue, a new one behind those that wait."""

    def __init__(self) -> None:
        self._queue: list[Size] = []

    def next(self, sizes: Collection[Size]) -> Size:
        """The size whose turn it is among those present; it goes to the end of the queue."""
        waiting = [size for size in self._queue if size in sizes]
        waiting += [size for size in dict.fromkeys(sizes) if size not in waiting]
        self._queue = [*waiting[1:], waiting[0]]
        return waiting[0]


def finite(rows: Sequence[Row]) -> list[bool]:
    """Whether each row's latent can still become a picture; one wait for the device."""
    found: list[bool] = torch.isfinite(torch.cat([row.x for row in rows])).flatten(1).all(dim=1).tolist()
    return found
