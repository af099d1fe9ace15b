"""Optimizers, learning-rate schedules and the ends of training phases, as a recipe asks for them.

Knows names and default rates; refuses to know what the parameters are for. Every optimizer comes from a maintained
package. All of them work element by element, so that a model's factors may lie in one flat vector, except Adafactor: it
keeps the second moment of a matrix as one row and one column, and scales a step by the matrix's own size (Shazeer &
Stern 2018), so that it is given the matrices that lie in the flat vector.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from lion_pytorch import Lion
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lorafleet.config import Recipe
from lorafleet.errors import ManifestError
from lorafleet_jobs.train.trainable_state import ParameterKind, ParameterSet, TrainableState

OPTIONS: dict[str, dict[str, Any]] = {
    "prodigy": {
        "betas": (0.9, 0.99), "weight_decay": 0.01, "decouple": True, "use_bias_correction": True,
        "safeguard_warmup": True,
    },
    "adamw": {"betas": (0.9, 0.999), "weight_decay": 1e-4},
    "adamw8bit": {"betas": (0.9, 0.999), "weight_decay": 1e-4},
    "lion": {"betas": (0.9, 0.99), "weight_decay": 3e-4},
    "adafactor": {"weight_decay": 0.0},
}  # fmt: skip
"""Defaults of `optimizer_options`. Lion's weight decay makes rate times decay what it is for AdamW."""


def optimizer_for(recipe: Recipe, trainable: TrainableState) -> Optimizer:
    """The recipe's optimizer, one parameter group for each `ParameterSet`, in their order.

    A parameter without gradient is left alone, its weight decay included. One Prodigy has one `d` for the whole job
    (Mishchenko & Defazio 2023). Raises ManifestError if `adamw8bit` lacks its package.
    """
    sets, name = trainable.sets(), recipe.optimizer
    rate = recipe.rate_of("unet")
    options = OPTIONS[name] | _renamed(recipe.optimizer_options.model_dump(exclude_none=True))
    if name == "adafactor":
        return MatrixAdafactor(sets, [recipe.rate_of(each.kind) for each in sets], lr=rate, **options)
    groups: list[dict[str, Any]] = [{"params": each.parameters, "lr": recipe.rate_of(each.kind)} for each in sets]
    with contextlib.redirect_stdout(io.StringIO()):  # Prodigy prints its choice of weight decay
        optimizer: Optimizer = _class_of(name)(groups, lr=rate, **options)
    return optimizer


def schedule_for(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning-rate schedule of diffusers, counted in optimizer steps, never in micro-batches.

    `constant` with warm-up is `constant_with_warmup`. Like everywhere in the field, the first step of a warm-up of w
    steps has rate 0, the (w + 1)-th the full one.
    """
    name = "constant_with_warmup" if recipe.lr_scheduler == "constant" and recipe.warmup_steps else recipe.lr_scheduler
    schedule: LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=recipe.warmup_steps, num_training_steps=steps,
        num_cycles=recipe.lr_cycles, power=recipe.lr_power,
    )  # fmt: skip
    return schedule


def phase_end(fraction: float, steps: int) -> int:
    """The last step, counted from 1, at which what has this fraction is trained; 0 for fraction 0, else at least 1."""
    return max(1, round(fraction * steps)) if fraction > 0 else 0


def phase_ends(recipe: Recipe, steps: int) -> dict[ParameterKind, int]:
    """The last step, counted from 1, at which each kind of parameter is trained; 0 for never."""
    text, pivotal = recipe.text_encoder_lora, recipe.pivotal
    return {
        "unet": phase_end(recipe.unet_fraction, steps),
        "text": phase_end(text.fraction, steps) if text else 0,
        "tokens": phase_end(pivotal.fraction, steps) if pivotal else 0,
    }


def adaptive_rate(optimizer: Optimizer) -> float | None:
    """Prodigy's estimate `d`, or None for an optimizer without one."""
    return float(optimizer.param_groups[0]["d"]) if isinstance(optimizer, Prodigy) else None


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    return {{"bias_correction": "use_bias_correction"}.get(key, key): value for key, value in options.items()}


def _class_of(name: str) -> Any:
    return adamw_8bit() if name == "adamw8bit" else {"prodigy": Prodigy, "adamw": AdamW, "lion": Lion}[name]


def adamw_8bit() -> type[torch.optim.Optimizer]:
    """AdamW with moments of 8 bits in blocks of 256 (Dettmers et al. 2022); ManifestError if its package is absent."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ManifestError(
            "recipe.optimizer is adamw8bit, which needs bitsandbytes; pip install 'lorafleet[gpu]', or use adamw"
        ) from None
    optimizer_class: type[torch.optim.Optimizer] = AdamW8bit
    return optimizer_class


class MatrixAdafactor(torch.optim.Adafactor):
    """PyTorch's Adafactor on the matrices inside flat parameters, one parameter group for each set.

    The matrices are views: they share the flat parameter's memory, so that memory must be written in place, never
    replaced. Gradients are read from the flat parameter at each step; where it has none, nothing moves.
    """

    def __init__(self, sets: Sequence[ParameterSet], rates: Sequence[float], **options: Any) -> None:
        self._views = [
            (flat, _matrices(flat, shapes))
            for each in sets
            for flat, shapes in zip(each.parameters, each.shapes, strict=True)
        ]
        matrices = {id(flat): views for flat, views in self._views}
        groups = [
            {"params": [matrix for flat in each.parameters for matrix in matrices[id(flat)]], "lr": rate}
            for each, rate in zip(sets, rates, strict=True)
        ]
        super().__init__(groups, foreach=True, **options)
        self.register_step_pre_hook(lambda *_: self._read_gradients())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of the flat parameters and of their matrices."""
        super().zero_grad(set_to_none)
        for flat, _ in self._views:
            if set_to_none:
                flat.grad = None
            elif flat.grad is not None:
                flat.grad.zero_()

    def _read_gradients(self) -> None:
        for flat, matrices in self._views:
            parts = _split(flat.grad, [m.shape for m in matrices]) if flat.grad is not None else [None] * len(matrices)
            for matrix, part in zip(matrices, parts, strict=True):
                matrix.grad = part


def _matrices(flat: nn.Parameter, shapes: Sequence[torch.Size]) -> list[nn.Parameter]:
    return [nn.Parameter(part) for part in _split(flat.detach(), shapes)]


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of the matrices that lie one after another in `flat`."""
    parts = flat.reshape(-1).split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
