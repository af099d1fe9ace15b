"""Optimizers, learning-rate schedules and the pivot, as a recipe asks for them."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from prodigyopt import Prodigy
from torch.optim import AdamW, Optimizer

from lorafleet.config import Recipe
from lorafleet_jobs.train.learned import Learned

ADAMW_RATE, ADAMW_TOKEN_RATE = 1e-4, 3e-4  # the diffusers default, and cog-sdxl's for learned tokens


def optimizer_for(recipe: Recipe, learned: Learned) -> Optimizer:
    """Prodigy (Mishchenko & Defazio 2023) with one `d` for the whole job, or AdamW.

    The UNet's factors are the first parameter group, the learned tokens the second.
    """
    prodigy = recipe.optimizer == "prodigy"
    rate = recipe.learning_rate or (1.0 if prodigy else ADAMW_RATE)
    groups: list[dict[str, Any]] = [{"params": [learned.flat], "lr": rate}]
    if learned.vectors is not None:
        token_rate = recipe.text_encoder_learning_rate or (rate if prodigy else ADAMW_TOKEN_RATE)
        groups.append({"params": list(learned.vectors), "lr": token_rate})
    if not prodigy:
        return AdamW(groups, betas=(0.9, 0.999), weight_decay=1e-4)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its choice of weight decay
        optimizer: Optimizer = Prodigy(
            groups, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, decouple=True, use_bias_correction=True,
            safeguard_warmup=True,
        )  # fmt: skip
    return optimizer


def schedule_for(recipe: Recipe, optimizer: Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning-rate schedule, in optimizer steps."""
    name = "constant_with_warmup" if recipe.lr_scheduler == "constant" and recipe.warmup_steps else recipe.lr_scheduler
    schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        name, optimizer, num_warmup_steps=recipe.warmup_steps, num_training_steps=steps
    )
    return schedule


def pivot_step(recipe: Recipe, steps: int) -> int:
    """The first step at which the learned tokens are frozen."""
    return max(1, round(recipe.pivotal.fraction * steps)) if recipe.pivotal is not None else 0


def adaptive_rate(optimizer: Optimizer) -> float | None:
    """Prodigy's estimate `d`, or None for an optimizer without one."""
    value = optimizer.param_groups[0].get("d")
    return None if value is None else float(value)
