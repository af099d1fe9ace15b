"""One denoising step of rows that share a UNet call. Knows no thread and no future."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import CapturedCalls
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import UNET
from lorafleet_serve.engine.batch_layout import Batch, BatchLayout, Slices
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.rows import Call, Row, own_call, shared_call
from lorafleet_serve.engine.static_layout import StaticLayout

COEFFICIENTS = ("c_in", "c_skip", "c_out", "A", "B", "C", "D")
IDLE = 4
"""Layouts that are kept for calls that no row is of, where steps are recorded: with them go their graphs."""


class Stepper:
    """Steps rows on one model; lays out a batch anew only when the rows of a call change."""

    def __init__(
        self, model: Pipeline, call: Callable[[Row], Call] = shared_call, calls: CapturedCalls | None = None
    ) -> None:
        """With `calls` steps are recorded, and batches are of few shapes."""
        self.call = call
        """Gives the call that a row steps in."""
        self._model, self._calls = model, calls
        self._layouts: dict[Call, BatchLayout] = {}
        """Those used last at the end."""
        self._batches: dict[Call, Batch] = {}
        self._installed: Slices = ()

    def prepare(self, rows: Sequence[Row]) -> Batch:
        """The batch of these rows, all of one call."""
        call, ids = self.call(rows[0]), tuple(row.id for row in rows)
        batch = self._batches.get(call)
        if batch is None or batch.ids != ids:
            self._batches.pop(call, None)
            layout = self._layouts.pop(call) if call in self._layouts else self._new_layout()
            self._layouts[call] = layout
            batch = self._batches[call] = layout.batch(rows)
        return batch

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Row]:
        """One denoising step of these rows."""
        batch = self.prepare(rows)
        inputs, function = inputs_of(rows, batch, self._model.loaded.device), partial(self._denoise, batch.slices)
        if self._calls is None or batch.captured is None:
            x, x0 = function(inputs)
        else:
            key = (batch.captured, *[(name, tensor.shape) for name, tensor in inputs.items()])
            x, x0 = self._calls(key, function, inputs)
        return [row.stepped(x[i : i + 1], x0[i : i + 1]) for i, row in enumerate(rows)]

    def keep(self, calls: Collection[Call]) -> None:
        """Frees the batches of all other calls, and their layouts but for a few that a recorded step may need again."""
        idle = [call for call in self._layouts if call not in calls]
        for call in idle:
            self._batches.pop(call, None)
        for call in idle[: max(0, len(idle) - (0 if self._calls is None else IDLE))]:
            del self._layouts[call]
        if not self._batches:
            self._install(())

    def forget(self) -> None:
        """Frees everything, after a step that failed: batches may be half made."""
        self._layouts.clear()
        self._batches.clear()
        self._install(())
        if self._calls is not None:
            self._calls.clear()

    def _new_layout(self) -> BatchLayout:
        columns, placement = self._model.columns, self._model.placement
        if self._calls is None:
            return BatchLayout(columns, **placement)
        return StaticLayout(columns, **placement, forget=self._calls.clear)

    def _denoise(self, slices: Slices, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        self._install(slices)
        return denoise(self._model.loaded, inputs)

    def _install(self, slices: Slices) -> None:
        """Puts the factors of a batch on the UNet's layers."""
        if self._installed is not slices:
            self._model.loaded.lora[UNET].set_spans(slices)
            self._installed = slices


def stepper_for(model: Pipeline, exact: bool, capture: bool) -> Stepper:
    """A stepper whose images have calls of their own (`exact`), or share calls that on a GPU are recorded (`capture`).

    Calls of one image each are not recorded: each would be a recording of its own.
    """
    if exact:
        return Stepper(model, own_call)
    device = model.loaded.device
    return Stepper(model, shared_call, CapturedCalls(device) if capture and device.type == "cuda" else None)


def denoise(loaded: LoadedBase, i: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """x and x0 of every image after one step, in one UNet call; of the tensors of `inputs_of` alone."""
    c_in, c_skip, c_out, A, B, C, D, w = (each.view(-1, 1, 1, 1) for each in i["coefficients"])
    x, rows = i["x"], i["rows"]
    text = Conditioning(i["context"], i["pooled"])
    output = loaded.predict((c_in * x)[rows], i["t"][rows], text, i["time_ids"])
    u, c = output[i["u"]], output[i["c"]]
    F = u + w * (c - u)  # Ho & Salimans 2022, eq. 6; without guidance u is c
    if "phi" in i:
        F = _rescaled(F, c, i["phi"])
    x0 = c_skip * x + c_out * F
    x = A * x + B * x0 + C * i["x0_prev"]
    return (x + D * i["z"] if "z" in i else x), x0


def inputs_of(rows: Sequence[Row], batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """What a step reads: latents and coefficients of each image, conditioning of each UNet row, who is whose.

    `phi` is there if an image rescales its guidance, `z` if one's sampler adds noise.
    """
    images = [*rows, *[rows[0]] * batch.padding]
    table = [[float(getattr(row.table, name)[row.step]) for row in images] for name in COEFFICIENTS]
    table.append([row.settings.guidance_scale for row in images])
    table.append([float(row.table.t[row.step]) for row in images])
    table.append([row.settings.request.guidance_rescale if row.guided else 0.0 for row in images])
    on_device = torch.tensor(table, dtype=torch.float32).to(device)  # one copy for all
    inputs = {
        "x": torch.cat([row.x for row in images]),
        "x0_prev": torch.cat([row.x0_prev for row in images]),
        "coefficients": on_device[: len(COEFFICIENTS) + 1],
        "t": on_device[-2],
        "context": batch.conditioning.context,
        "pooled": batch.conditioning.pooled,
        "time_ids": batch.time_ids,
        "rows": batch.rows,
        "u": batch.u,
        "c": batch.c,
    }
    if any(table[-1]):
        inputs["phi"] = on_device[-1]
    if any(row.table.stochastic for row in rows):
        z = [row.noise.draw(row.draws + row.step) if row.table.stochastic else torch.zeros_like(row.x) for row in rows]
        inputs["z"] = torch.cat([*z, *[z[0]] * batch.padding])
    return inputs


def finite(rows: Sequence[Row]) -> list[bool]:
    """Whether each row's latent is free of NaN and infinity; waits for the device once."""
    are_finite: list[bool] = torch.isfinite(torch.cat([row.x for row in rows])).flatten(1).all(dim=1).tolist()
    return are_finite


def _rescaled(F: Tensor, c: Tensor, phi: Tensor) -> Tensor:
    """Guidance without its excess contrast: Lin et al. 2024, eq. 15-16; each image by itself, at phi 0 not at all."""
    factor = phi * c.flatten(1).std(dim=1) / F.flatten(1).std(dim=1) + (1 - phi)
    return torch.where(phi > 0, factor, 1.0).view(-1, 1, 1, 1) * F
