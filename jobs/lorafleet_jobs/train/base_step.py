"""What is asked of the base as functions of tensors alone: predict, weigh, backward; or predict only.

All their shapes are in a `BaseStep` or a `BasePrediction`, so that a GPU can record it once and replay it for whichever
jobs come (`lorafleet.numerics.captured`). Knows the base and row LoRA; refuses to know jobs, prompts and optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import Calls
from lorafleet.numerics.factors import Stacked
from lorafleet.numerics.flat_factors import Layout
from lorafleet.numerics.loss import weighted_squared_error
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import UNET
from lorafleet_jobs.train.trainable_state import PackedFactors
from lorafleet_jobs.train.training import MicroBatch


@dataclass(frozen=True)
class BaseStep:
    """One call of the base for the micro-batches of `slots` jobs of one shape."""

    slots: int
    layout: Layout | None
    """Of the factors in `flat`; None if no job has LoRA on the UNet."""
    trained: tuple[str, ...]
    """The inputs whose gradients are wanted, of `flat`, `context` and `pooled`."""
    checkpointing: bool

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        base: LoadedBase,
        unet: Callable[..., Any] | None = None,
        dropout: RowDropout | None = None,
    ) -> tuple[Tensor, ...]:
        """The losses [slots], then the gradients of the sum of all losses with respect to each of `trained`.

        `inputs` are `x`, `t`, `time_ids`, `context`, `pooled`, `F_target`, `w` and perhaps `mask` of all slots' rows,
        and with a layout the factors `flat` [slots, layout.size] and perhaps `dora` [slots, layers]. The
        base carries the adapters until the backward pass is done, because checkpointing runs layers again in it.
        """
        leaves = {name: inputs[name].detach().requires_grad_() for name in self.trained}
        i = {**inputs, **leaves}
        with base.carrying((UNET,), _adapters(base, self.layout, i), dropout), base.checkpointing(self.checkpointing):
            F = base.predict(i["x"], i["t"], Conditioning(i["context"], i["pooled"]), i["time_ids"], unet)
            rows = zip(*(self._by_slot(i.get(name)) for name in ("F_target", "w", "mask")), strict=True)
            each = zip(F.chunk(self.slots), rows, strict=True)
            losses = torch.stack([weighted_squared_error(F, *own) for F, own in each])
            gradients = torch.autograd.grad(losses.sum(), list(leaves.values())) if leaves else ()
        return losses.detach(), *gradients

    def _by_slot(self, rows: Tensor | None) -> tuple[Any, ...]:
        return (None,) * self.slots if rows is None else rows.chunk(self.slots)


@dataclass(frozen=True)
class BasePrediction:
    """One call of the base that nothing is learned from."""

    layout: Layout | None = None
    """Of the factors in `flat`; None for the base without adapters."""

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor], *, base: LoadedBase) -> tuple[Tensor]:
        """F of the rows `x`, `t`, `time_ids`, `context` and `pooled`; factors are as in a `BaseStep`."""
        with base.carrying((UNET,), _adapters(base, self.layout, inputs)):
            text = Conditioning(inputs["context"], inputs["pooled"])
            return (base.predict(inputs["x"], inputs["t"], text, inputs["time_ids"]),)

    def ask(self, calls: Calls, base: LoadedBase, inputs: Mapping[str, Tensor]) -> Tensor:
        """F of these rows, by `calls`."""
        key = (self, *[(name, tensor.shape, tensor.dtype) for name, tensor in inputs.items()])
        (F,) = calls(key, partial(self, base=base), inputs)
        return F


def inputs_of(
    rows: Sequence[MicroBatch], jobs: int, text: Conditioning, factors: PackedFactors | None
) -> dict[str, Tensor]:
    """What a `BaseStep` is called with, for the micro-batches of its slots; those after the first `jobs` weigh 0."""
    inputs = {
        "x": torch.cat([each.noisy.x for each in rows]),
        "t": torch.cat([each.noisy.t for each in rows]),
        "time_ids": torch.cat([each.time_ids for each in rows]),
        "context": text.context.detach(),
        "pooled": text.pooled.detach(),
        "F_target": torch.cat([each.F_target for each in rows]),
        "w": torch.cat([each.w if i < jobs else torch.zeros_like(each.w) for i, each in enumerate(rows)]),
    }
    if any(each.mask is not None for each in rows):
        inputs["mask"] = torch.cat(
            [torch.ones_like(each.noisy.x[:, :1]) if each.mask is None else each.mask for each in rows]
        )
    if factors is not None:
        inputs["flat"] = factors.flat
        if factors.dora is not None:
            inputs["dora"] = factors.dora
    return inputs


def prior_inputs(rows: Sequence[MicroBatch], texts: Sequence[Conditioning]) -> dict[str, Tensor]:
    """What a `BasePrediction` is called with for the rows of prior mode `predict`, each micro-batch with its text."""
    text = Conditioning.cat(texts)
    return {
        "x": torch.cat([each.noisy.x[-each.predicted :] for each in rows]),
        "t": torch.cat([each.noisy.t[-each.predicted :] for each in rows]),
        "time_ids": torch.cat([each.time_ids[-each.predicted :] for each in rows]),
        "context": text.context,
        "pooled": text.pooled,
    }


def _adapters(base: LoadedBase, layout: Layout | None, inputs: Mapping[str, Tensor]) -> dict[str, dict[str, Stacked]]:
    if layout is None:
        return {}
    return {UNET: layout.stacked(base.lora[UNET], inputs["flat"], inputs.get("dora"), base.unet.dtype)}
