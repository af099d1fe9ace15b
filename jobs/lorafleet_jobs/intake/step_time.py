"""How long a training step takes, by the recipe and by what it runs on: estimates, never promises.

On a GPU steps are recorded and replayed: a step takes some time whatever its size, for some thousand small kernels, and
more with rows and pixels. What is not recorded waits for Python's launches: the base's own forward passes. The figures
for GPUs are those of one NVIDIA H200 with torch 2.11, measured on 2026-11-27 (`benchmarks/results/memory_cells.json`);
`benchmarks/memory/fit_memory.py` fits them. Imports no torch.
"""

from __future__ import annotations

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet_jobs.intake.memory_model import rows_at_once

STEP_S = {False: 0.0391, True: 0.0556}
"""Fitted: a step of no rows, without and with gradient checkpointing."""
ROW_S = {False: 0.0426, True: 0.0566}
"""Fitted: one 1024 px row in bf16, with the optimizer of its job."""
LAUNCHED_S = 0.1
"""Launching one forward pass that is not recorded: two rows took so long."""
FP32_FACTOR = 4.1
"""Not measured: 13.5 TFLOP a row at the 67 TFLOP/s of fp32 in an H200's data sheet are 0.20 s, which is a floor."""
CPU_ROW_S = 45.0
"""One 1024 px row on two cores: 5 s at 256 px, checkpointed, measured on the whole SDXL architecture; for the area
times 16, without checkpointing over 1.8."""
TOY_STEP_S, TOY_ROW_S = 0.04, 0.01
"""One core, the base's own side: a step, and each row of its batch; the UNet alone took 0.042 s for a batch of 4."""
CHECKPOINTING_FACTOR = 1.8
"""Gradient checkpointing, where no launches are waited for: 1.080 s against 0.606 s (SimpleTuner's documentation)."""
FORWARD_SHARE = 1 / 3
"""Of a training step's time that a forward pass alone takes; a backward pass costs about two."""


def step_seconds(recipe: Recipe, base: Base, on_gpu: bool, pack: int) -> float:
    """Seconds of one step of a pack of `pack` such jobs, all micro-batches of a step and its workers counted.

    Prior mode predict shows every micro-batch to the base as well, job by job, forward only. Checkpointing that is left
    to the plan (`auto`) counts as none.
    """
    rows, checkpointing = rows_at_once(recipe), recipe.gradient_checkpointing is True
    micro = _call_seconds(recipe, base, on_gpu, pack * rows, checkpointing)
    if recipe.prior is not None and recipe.prior.mode == "predict":
        micro += pack * _forward_seconds(recipe, base, on_gpu, rows)
    return micro * recipe.gradient_accumulation / recipe.workers


def generation_seconds(recipe: Recipe, base: Base, on_gpu: bool) -> float:
    """Making one class image: two UNet rows, with guidance, at each of the base's denoising steps."""
    return base.default_steps * _forward_seconds(recipe, base, on_gpu, 2)


def _forward_seconds(recipe: Recipe, base: Base, on_gpu: bool, rows: int) -> float:
    """A forward pass of so many rows by the base alone."""
    seconds = FORWARD_SHARE * _call_seconds(recipe, base, on_gpu, rows, False)
    return max(seconds, LAUNCHED_S) if on_gpu and not base.is_toy else seconds


def _call_seconds(recipe: Recipe, base: Base, on_gpu: bool, rows: int, checkpointing: bool) -> float:
    """One forward and backward pass of so many rows, and the optimizers of their jobs."""
    side = recipe.resolution or base.resolution
    if base.is_toy:
        seconds = TOY_STEP_S + TOY_ROW_S * rows * (side / base.resolution) ** 2
    elif on_gpu:
        wide = FP32_FACTOR if recipe.precision == "fp32" else 1.0
        return STEP_S[checkpointing] + ROW_S[checkpointing] * wide * rows * (side / 1024) ** 2
    else:
        seconds = CPU_ROW_S * rows * (side / 1024) ** 2
    return seconds * (CHECKPOINTING_FACTOR if checkpointing else 1)
