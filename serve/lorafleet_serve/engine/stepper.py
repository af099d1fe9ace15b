"""One denoising step of rows that share a UNet call. Knows no thread and no future."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lorafleet.targets import UNET
from lorafleet_serve.engine.batch_layout import Batch, BatchLayout
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.rows import Call, Row, shared_call

COEFFICIENTS = ("c_in", "c_skip", "c_out", "A", "B", "C", "D")


class Stepper:
    """Steps rows on one model; lays out a batch anew only when the rows of a call change."""

    def __init__(self, model: Pipeline, call: Callable[[Row], Call] = shared_call) -> None:
        self.call = call
        """Gives the call that a row steps in."""
        self._model = model
        self._layouts: dict[Call, BatchLayout] = {}
        self._batches: dict[Call, Batch] = {}
        self._installed: Batch | None = None

    def prepare(self, rows: Sequence[Row]) -> Batch:
        """The batch of these rows, all of one call; puts its factors on the UNet's layers."""
        call, ids = self.call(rows[0]), tuple(row.id for row in rows)
        batch = self._batches.get(call)
        if batch is None or batch.ids != ids:
            self._batches.pop(call, None)
            layout = self._layouts.setdefault(call, BatchLayout(self._model.columns, **self._model.placement))
            batch = self._batches[call] = layout.batch(rows)
        if self._installed is not batch:
            self._model.loaded.lora[UNET].set_spans(batch.slices)
            self._installed = batch
        return batch

    def step(self, rows: Sequence[Row]) -> list[Row]:
        """One denoising step of these rows."""
        return advance(rows, self.prepare(rows), self._model)

    def keep(self, calls: Collection[Call]) -> None:
        """Frees the batches of all other calls."""
        for call in [call for call in self._layouts if call not in calls]:
            del self._layouts[call]
            self._batches.pop(call, None)
        if self._installed is not None and self._installed not in self._batches.values():
            self._model.loaded.lora[UNET].set_spans(())
            self._installed = None


@torch.inference_mode()
def advance(rows: Sequence[Row], batch: Batch, model: Pipeline) -> list[Row]:
    """One denoising step of every row in one UNet call; the batch's factors must be installed."""
    k = _coefficients(rows, model.loaded.device)
    x, x0_prev = torch.cat([row.x for row in rows]), torch.cat([row.x0_prev for row in rows])
    x_in = (k["c_in"] * x)[batch.rows]
    output = model.loaded.predict(x_in, k["t"][batch.rows], batch.conditioning, batch.time_ids)
    u, c = output[batch.u], output[batch.c]
    F = _rescaled(rows, u + k["guidance"] * (c - u), c)  # Ho & Salimans 2022, eq. 6; without guidance u is c
    x0 = k["c_skip"] * x + k["c_out"] * F
    x = k["A"] * x + k["B"] * x0 + k["C"] * x0_prev
    if any(row.table.stochastic for row in rows):
        z = [row.noise.draw(row.step + 1) if row.table.stochastic else torch.zeros_like(row.x) for row in rows]
        x = x + k["D"] * torch.cat(z)
    return [replace(row, x=x[i : i + 1], x0_prev=x0[i : i + 1], step=row.step + 1) for i, row in enumerate(rows)]


def finite(rows: Sequence[Row]) -> list[bool]:
    """Whether each row's latent is free of NaN and infinity; waits for the device once."""
    are_finite: list[bool] = torch.isfinite(torch.cat([row.x for row in rows])).flatten(1).all(dim=1).tolist()
    return are_finite


def _coefficients(rows: Sequence[Row], device: torch.device) -> dict[str, Tensor]:
    """Every row's numbers for its step, each [n, 1, 1, 1], and the timesteps "t" [n]; one copy to the device."""
    names = (*COEFFICIENTS, "t")
    table = [[float(getattr(row.table, name)[row.step]) for row in rows] for name in names]
    table.append([row.settings.guidance_scale for row in rows])
    on_device = torch.tensor(table, dtype=torch.float32).to(device)
    coefficients = {name: on_device[i].view(-1, 1, 1, 1) for i, name in enumerate((*names, "guidance"))}
    return {**coefficients, "t": on_device[len(COEFFICIENTS)]}


def _rescaled(rows: Sequence[Row], F: Tensor, c: Tensor) -> Tensor:
    """Guidance without its excess contrast: Lin et al. 2024, eq. 15-16; each row by itself."""
    phi = [row.settings.request.guidance_rescale if row.guided else 0.0 for row in rows]
    if not any(phi):
        return F
    rescaled = list(F)
    for i, phi_i in enumerate(phi):
        if phi_i:
            rescaled[i] = F[i] * (phi_i * c[i].std() / F[i].std() + (1 - phi_i))
    return torch.stack(rescaled)
