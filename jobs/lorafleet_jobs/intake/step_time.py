"""How long a training step takes, by the recipe and by what it runs on: estimates, never promises.

On a GPU a step takes the longer of two times: Python's, which launches some twelve thousand kernels whatever their
size, and the card's, which grows with rows and pixels. Up to some ten rows of 1024 px the card waits for Python. The
figures for GPUs are those of one NVIDIA H200 with torch 2.11, steps run eagerly, measured on 2026-11-27
(`benchmarks/results/memory_cells.json`); `benchmarks/memory/fit_memory.py` fits them. Imports no torch.
"""

from __future__ import annotations

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet_jobs.intake.memory_model import rows_at_once

LAUNCH_S = {False: 0.452, True: 0.885}
"""Fitted: a step's launches, without and with gradient checkpointing, which launches the forward pass twice."""
JOB_S = 0.0126
"""Fitted: what each job of a pack adds to them, with an optimizer and random numbers of its own."""
GPU_ROW_S = {False: 0.049, True: 0.074}
"""The card's own time for one 1024 px row in bf16: four rows took 0.197 s in a CUDA graph. With checkpointing three
passes instead of two."""
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
    micro = _call_seconds(recipe, base, on_gpu, pack * rows, pack, checkpointing)
    if recipe.prior is not None and recipe.prior.mode == "predict":
        micro += pack * FORWARD_SHARE * _call_seconds(recipe, base, on_gpu, rows, 0, False)
    return micro * recipe.gradient_accumulation / recipe.workers


def generation_seconds(recipe: Recipe, base: Base, on_gpu: bool) -> float:
    """Making one class image: two UNet rows, with guidance, at each of the base's denoising steps."""
    return base.default_steps * FORWARD_SHARE * _call_seconds(recipe, base, on_gpu, 2, 0, False)


def _call_seconds(recipe: Recipe, base: Base, on_gpu: bool, rows: int, jobs: int, checkpointing: bool) -> float:
    """One forward and backward pass of so many rows, and the optimizers of so many jobs."""
    side = recipe.resolution or base.resolution
    if base.is_toy:
        seconds = TOY_STEP_S + TOY_ROW_S * rows * (side / base.resolution) ** 2
    elif on_gpu:
        wide = FP32_FACTOR if recipe.precision == "fp32" else 1.0
        card = GPU_ROW_S[checkpointing] * wide * rows * (side / 1024) ** 2
        return max(LAUNCH_S[checkpointing] + JOB_S * jobs, card)
    else:
        seconds = CPU_ROW_S * rows * (side / 1024) ** 2
    return seconds * (CHECKPOINTING_FACTOR if checkpointing else 1)
