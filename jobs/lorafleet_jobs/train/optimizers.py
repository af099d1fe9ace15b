"""Optimizers, learning-rate schedules and the ends of training phases, as a recipe asks for them.

Knows names and default rates; refuses to know what the parameters are for. Every optimizer comes from a maintained
package. All of them work element by element, so that a model's factors may lie in one flat vector, but for Adafactor,
which is given the matrices (`matrices`).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from lion_pytorch import Lion
from prodigyopt import Prodigy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lorafleet.config import Recipe
from lorafleet.errors import ManifestError
from lorafleet_jobs.train.learned import TrainableState
from lorafleet_jobs.train.matrices import MatrixAdafactor

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
"""What is passed where `optimizer_options` is silent. Lion's decay makes rate times decay what it is for AdamW."""


def optimizer_for(recipe: Recipe, learned: TrainableState) -> Optimizer:
    """The recipe's optimizer, one parameter group for each `ParameterSet`, in their order.

    A parameter without gradient is left alone, its weight decay included. One Prodigy has one `d` for the whole job
    (Mishchenko & Defazio 2023). Raises ManifestError if `adamw8bit` lacks its package.
    """
    sets, name = learned.sets(), recipe.optimizer
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
    found: type[torch.optim.Optimizer] = AdamW8bit
    return found
