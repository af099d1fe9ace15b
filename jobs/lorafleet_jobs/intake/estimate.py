"""How long a plan will take, before anything runs: jobs dealt to lanes as they come free. An estimate, never a promise.

Knows what happens around the steps; `step_time` knows the steps, `choose` how a lane takes them. Imports no torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from lorafleet.bases import Base
from lorafleet.config import Recipe, Resources
from lorafleet.config.strict import Strict
from lorafleet_jobs.intake.base_size import BYTES, BaseSize
from lorafleet_jobs.intake.choose import Choice, choose
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.intake.step_time import generation_seconds, step_seconds
from lorafleet_jobs.jobspec import JobSpec

LANE_START_S = 15.0
"""Ray Train: 7 to 15 s a fit(); measured with ray 2.60."""
LOAD_S_PER_GIB = 4.0
"""Reading and placing a base's weights; a local disk at 250 MB/s."""
JOB_OVERHEAD_S = 3.0
"""Caching latents, writing the bundle, registering it."""


class Estimate(Strict):
    """What a plan costs, roughly."""

    seconds: float
    """From submission to the last adapter."""
    peak_memory_mib: float
    """Of one lane, on its device."""
    gpu_hours: float = 0.0
    """Of all lanes, from their start to their end; 0 on CPUs."""
    adapters_mb: float = 0.0
    """Of the adapters on disk, in millions of bytes."""
    price: float | None = None
    """Of the GPUs, where the manifest says what an hour costs."""


def choice_for(jobs: Sequence[JobSpec], base: Base, size: BaseSize, machine: Machine, resources: Resources) -> Choice:
    """How each lane trains these jobs, one or more: never so many at once that another lane would find none."""
    workers = _workers(jobs)
    recipes = list({job.recipe.model_dump_json(): job.recipe for job in jobs}.values())
    share = -(-len(jobs) // min(resources.lanes, len(jobs)))
    return choose(machine.device(resources, workers), recipes, base, size, resources, share)


def estimate(
    jobs: Sequence[JobSpec], base: Base, size: BaseSize, machine: Machine, resources: Resources, choice: Choice | None
) -> Estimate:
    """What training these jobs as was chosen takes: time, memory, GPUs and disk; nothing without jobs."""
    if choice is None or not jobs:
        return Estimate(seconds=0.0, peak_memory_mib=0.0)
    gib, on_gpu = size.parameters * 4 / 2**30, choice.device.on_gpu
    at_once = machine.lanes_at_once(resources, _workers(jobs))
    lanes = [LANE_START_S + LOAD_S_PER_GIB * gib] * min(at_once, len(jobs))
    made: set[tuple[str, str | None, int | None]] = set()
    for job in jobs:
        free_at = heapq.heappop(lanes)
        seconds = job_seconds(choice.applied(job.recipe), job.steps, base, on_gpu, choice.pack)
        prior = job.recipe.prior
        pictures = (job.class_noun, prior.prompt if prior else None, job.recipe.resolution)
        if prior is not None and prior.mode == "generate" and pictures not in made:  # the first job makes them for all
            made.add(pictures)
            seconds += prior.count * generation_seconds(job.recipe, base, on_gpu)
        heapq.heappush(lanes, free_at + seconds)
    per_lane = (resources.gpus_per_lane or 1.0) * _workers(jobs) if on_gpu else 0.0
    hours, price = per_lane * sum(lanes) / 3600, resources.price_per_gpu_hour
    return Estimate(
        seconds=round(max(lanes), 1),
        peak_memory_mib=choice.peak_memory_mib,
        gpu_hours=round(hours, 3),
        adapters_mb=round(sum(size.adapter_parameters(job.recipe) for job in jobs) * BYTES["fp32"] / 1e6, 2),
        price=round(hours * price, 2) if price is not None and on_gpu else None,
    )


def job_seconds(recipe: Recipe, steps: int, base: Base, on_gpu: bool, pack: int = 1) -> float:
    """One job's share of a lane that holds the base and trains `pack` jobs at once, and a fixed overhead."""
    return JOB_OVERHEAD_S + steps * step_seconds(recipe, base, on_gpu, pack) / pack


def _workers(jobs: Sequence[JobSpec]) -> int:
    return max((job.recipe.workers for job in jobs), default=1)
