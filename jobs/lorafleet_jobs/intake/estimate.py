"""How long a plan will take and how much memory a lane needs, before anything runs: estimates, never promises.

The constants are published or measured figures, each with its source. Sizes are read from safetensors headers, so the
adapter's parameter count is exact for whatever base is given. Imports no torch.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from lorafleet.bases import Base
from lorafleet.config import Recipe, Resources
from lorafleet.config.strict import Strict
from lorafleet_jobs.intake.base_size import BaseSize, measure_base
from lorafleet_jobs.jobspec import JobSpec

__all__ = ["BaseSize", "Estimate", "Machine", "estimate", "job_memory_mib", "job_seconds", "measure_base"]

LANE_START_S = 15.0
"""Ray Train: 7 to 15 s a fit(); measured with ray 2.60."""
LOAD_S_PER_GIB = 4.0
"""Reading and placing a base's weights; a local disk at 250 MB/s."""
JOB_OVERHEAD_S = 3.0
"""Caching latents, writing the bundle, registering it."""
TOY_STEP_S, TOY_IMAGE_S = 0.04, 0.01
"""One core, 32 px: a step, and each image of its batch; the UNet alone was measured at 0.042 s for a batch of 4."""
GPU_STEP_S = 0.6
"""One 1024 px image a step, bf16: 0.606 s on an H100, 0.585 s on an L40S (SimpleTuner's documentation)."""
CPU_STEP_S = 45.0
"""One 1024 px image a step on two cores: 5 s at 256 px, checkpointed, measured on the whole SDXL architecture; for
the area times 16, without checkpointing over 1.8."""
CHECKPOINTING_FACTOR = 1.8
"""Gradient checkpointing: 1.080 s against 0.606 s (same source)."""

PROCESS_MIB = 500.0
"""A process that has imported torch and diffusers."""
ACTIVATION_MIB = 6000.0
"""Of one 1024 px image in bf16: 13.0 GiB in all (same source), less the base's weights."""
CHECKPOINTED_ACTIVATION_MIB = 1000.0
"""With gradient checkpointing: 6.5 GiB in all, text encoders and VAE unloaded."""
TOY_ACTIVATION_MIB = 10.0
"""Of one 32 px image; a batch of 8 added 37 MiB to a batch of 1."""
ADAPTER_COPIES = {"prodigy": 6.0, "adamw": 4.0, "adamw8bit": 2.5, "lion": 3.0, "adafactor": 2.1}
"""fp32 copies of the adapter: value, gradient, and what the optimizer keeps: two moments for AdamW (of 8 bits for
adamw8bit), for Prodigy its start and running numerator as well, one for Lion, rows and columns for Adafactor."""
FORWARD_SHARE = 1 / 3
"""Of a training step's time that a forward pass alone takes; a backward pass costs about two."""

LARGEST_PACK = 8
"""With `auto`: from 8 to 16 rows a toy UNet gains little more (`benchmarks/results/rows.json`)."""
ASSUMED_GPU_MIB = 22000.0
"""A 24 GB card; on a larger one say `pack`. Too large a pack is asked in halves, not lost."""
CPU_SHARE = 0.6
"""Of a machine's memory, for all lanes."""
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


class Estimate(Strict):
    """What a plan costs, roughly."""

    seconds: float
    """From submission to the last adapter."""
    peak_memory_mib: float
    """Of one lane, on its device."""


@dataclass(frozen=True)
class Machine:
    """The cores and GPUs that lanes can use."""

    cpus: int
    gpus: int
    memory_mib: float = 8192.0
    """Of the machine; a GPU's is not known here."""

    @classmethod
    def here(cls) -> Machine:
        """What is here: the cores this process may use, its memory, and the NVIDIA device files."""
        gpus = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
        memory = psutil.virtual_memory().total / 2**20
        return cls(len(os.sched_getaffinity(0)), gpus, memory)

    def lanes_at_once(self, resources: Resources, workers: int = 1) -> int:
        """How many lanes of so many workers fit side by side; at least one."""
        fit = self.cpus // (resources.cpus_per_lane * workers)
        per_lane = resources.gpus_per_lane if resources.gpus_per_lane is not None else float(self.gpus > 0)
        if per_lane > 0:
            fit = min(fit, int(self.gpus / (per_lane * workers)))
        return max(1, min(fit, resources.lanes))


def estimate(jobs: Sequence[JobSpec], base: Base, size: BaseSize, machine: Machine, resources: Resources) -> Estimate:
    """The plan's time, jobs dealt to lanes as they come free, and the memory of its hungriest pack."""
    pack = pack_size(jobs, base, size, machine, resources)
    gib = size.parameters * 4 / 2**30
    at_once = machine.lanes_at_once(resources, _workers(jobs))
    lanes = [LANE_START_S + LOAD_S_PER_GIB * gib] * min(at_once, max(1, len(jobs)))
    made: set[tuple[str, str | None, int | None]] = set()
    for job in jobs:
        free_at = heapq.heappop(lanes)
        seconds = job_seconds(job.recipe, job.steps, base, machine, pack)
        prior = job.recipe.prior
        pictures = (job.class_noun, prior.prompt if prior else None, job.recipe.resolution)
        if prior is not None and prior.mode == "generate" and pictures not in made:  # the first job makes them for all
            made.add(pictures)
            seconds += prior.count * generation_seconds(job.recipe, base, machine)
        heapq.heappush(lanes, free_at + seconds)
    shared = shared_memory_mib(jobs, size)
    alone = max((job_memory_mib(job.recipe, base, size) for job in jobs), default=shared)
    memory = shared + pack * (alone - shared)
    return Estimate(seconds=round(max(lanes), 1) if jobs else 0.0, peak_memory_mib=round(memory))


def pack_size(jobs: Sequence[JobSpec], base: Base, size: BaseSize, machine: Machine, resources: Resources) -> int:
    """How many jobs a lane trains at once: what was asked for, or with `auto` what its memory has room for.

    Never so many that another lane would find nothing to do; one, where several workers share it.
    """
    if _workers(jobs) > 1:
        return 1
    share = -(-len(jobs) // min(resources.lanes, max(1, len(jobs)))) if jobs else 1
    if resources.pack != "auto":
        return min(resources.pack, share)
    lanes = machine.lanes_at_once(resources)
    memory = ASSUMED_GPU_MIB if machine.gpus else machine.memory_mib * CPU_SHARE / lanes
    alone = max((job_memory_mib(job.recipe, base, size) for job in jobs), default=0.0)
    shared = shared_memory_mib(jobs, size)
    each = max(alone - shared, 1.0)
    return max(1, min(share, LARGEST_PACK, int((memory - shared) / each)))


def _workers(jobs: Sequence[JobSpec]) -> int:
    return max((job.recipe.workers for job in jobs), default=1)


def shared_memory_mib(jobs: Sequence[JobSpec], size: BaseSize) -> float:
    """What all jobs of a lane share: the process and the base."""
    precision = max((_BYTES[job.recipe.precision] for job in jobs), default=4)
    return PROCESS_MIB + size.parameters * precision / 2**20


def job_seconds(recipe: Recipe, steps: int, base: Base, machine: Machine, pack: int = 1) -> float:
    """One job's share of a lane that holds the base and trains `pack` jobs at once, and a fixed overhead.

    A step is `gradient_accumulation` micro-batches, which its workers share, each with the subject's rows and the
    class's. Prior mode predict shows every micro-batch to the base as well, forward only.
    """
    rows = rows_at_once(recipe)
    micro = _fixed_s(base) / pack + rows * _row_s(recipe, base, machine)
    micro *= CHECKPOINTING_FACTOR if recipe.gradient_checkpointing else 1
    if recipe.prior is not None and recipe.prior.mode == "predict":
        micro += FORWARD_SHARE * (_fixed_s(base) + rows * _row_s(recipe, base, machine))
    return JOB_OVERHEAD_S + steps * recipe.gradient_accumulation / recipe.workers * micro


def generation_seconds(recipe: Recipe, base: Base, machine: Machine) -> float:
    """Making one class image: two UNet rows, with guidance, at each of the base's denoising steps."""
    return base.default_steps * FORWARD_SHARE * (_fixed_s(base) + 2 * _row_s(recipe, base, machine))


def rows_at_once(recipe: Recipe) -> int:
    """Rows of a micro-batch: the subject's and, with prior preservation, the class's."""
    others = 0 if recipe.prior is None else recipe.prior.batch_size or recipe.batch_size
    return recipe.batch_size + others


def job_memory_mib(recipe: Recipe, base: Base, size: BaseSize) -> float:
    """A lane's peak for one job: process, base at its precision, adapter and optimizer state, activations."""
    side = recipe.resolution or base.resolution
    weights = size.parameters * _BYTES[recipe.precision]
    copies = ADAPTER_COPIES[recipe.optimizer] + (recipe.ema is not None)
    adapter = size.adapter_parameters(recipe) * 4 * copies
    if base.is_toy:
        activations = TOY_ACTIVATION_MIB * (side / 32) ** 2
    else:
        one = CHECKPOINTED_ACTIVATION_MIB if recipe.gradient_checkpointing else ACTIVATION_MIB
        activations = one * (side / 1024) ** 2 * _BYTES[recipe.precision] / 2
    return PROCESS_MIB + (weights + adapter) / 2**20 + activations * rows_at_once(recipe)


def _fixed_s(base: Base) -> float:
    return TOY_STEP_S if base.is_toy else 0.0


def _row_s(recipe: Recipe, base: Base, machine: Machine) -> float:
    side = recipe.resolution or base.resolution
    if base.is_toy:
        return TOY_IMAGE_S * (side / 32) ** 2
    return (GPU_STEP_S if machine.gpus else CPU_STEP_S) * (side / 1024) ** 2
