"""How long a plan will take and how much memory a lane needs, before anything runs: estimates, never promises.

The constants are published or measured figures, each with its source. Sizes are read from safetensors headers, so the
adapter's parameter count is exact for whatever base is given. Imports no torch.
"""

from __future__ import annotations

import heapq
import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from lorafleet.bases import Base
from lorafleet.config import Recipe, Resources
from lorafleet.config.strict import Strict
from lorafleet.errors import BaseModelError
from lorafleet_jobs.jobspec import JobSpec

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
ADAPTER_COPIES = 4
"""fp32 copies of the adapter: value, gradient, and the optimizer's two moments."""

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_ADAPTED = (".to_q.weight", ".to_k.weight", ".to_v.weight", ".to_out.0.weight")
_HEADER_LIMIT = 100 * 10**6  # safetensors' own


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

    @classmethod
    def here(cls) -> Machine:
        """What is here: the cores this process may use, and the NVIDIA device files."""
        gpus = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
        return cls(len(os.sched_getaffinity(0)), gpus)

    def lanes_at_once(self, resources: Resources) -> int:
        """How many lanes fit side by side; at least one."""
        fit = self.cpus // resources.cpus_per_lane
        per_lane = resources.gpus_per_lane if resources.gpus_per_lane is not None else float(self.gpus > 0)
        if per_lane > 0:
            fit = min(fit, int(self.gpus / per_lane))
        return max(1, min(fit, resources.lanes))


@dataclass(frozen=True)
class BaseSize:
    """What a base weighs."""

    parameters: int
    """Of the UNet, both text encoders and the VAE."""
    adapted_features: int
    """Inputs plus outputs, summed over the adapted layers: rank times this is an adapter's parameter count."""


def measure_base(base: Base) -> BaseSize:
    """Counts a base's parameters by its safetensors headers; a variant beside the full weights is not counted twice."""
    unet = dict(_shapes(base, "unet"))
    others = [dict(_shapes(base, part)) for part in ("text_encoder", "text_encoder_2", "vae")]
    parameters = sum(prod(shape) for part in (unet, *others) for shape in part.values())
    adapted = sum(sum(shape) for name, shape in unet.items() if name.endswith(_ADAPTED))
    return BaseSize(parameters, adapted)


def estimate(jobs: Sequence[JobSpec], base: Base, size: BaseSize, machine: Machine, resources: Resources) -> Estimate:
    """The plan's time, jobs dealt to lanes as they come free, and the memory of its hungriest job."""
    gib = size.parameters * 4 / 2**30
    lanes = [LANE_START_S + LOAD_S_PER_GIB * gib] * min(machine.lanes_at_once(resources), max(1, len(jobs)))
    for job in jobs:
        free_at = heapq.heappop(lanes)
        heapq.heappush(lanes, free_at + job_seconds(job.recipe, job.steps, base, machine))
    memory = max((job_memory_mib(job.recipe, base, size) for job in jobs), default=0.0)
    return Estimate(seconds=round(max(lanes), 1) if jobs else 0.0, peak_memory_mib=round(memory))


def job_seconds(recipe: Recipe, steps: int, base: Base, machine: Machine) -> float:
    """One job's time in a lane that holds the base: steps times the cost of a step, and a fixed overhead."""
    side = recipe.resolution or base.resolution
    if base.is_toy:
        step = TOY_STEP_S + TOY_IMAGE_S * recipe.batch_size * (side / 32) ** 2
    else:
        one = GPU_STEP_S if machine.gpus else CPU_STEP_S
        step = one * recipe.batch_size * (side / 1024) ** 2
    return JOB_OVERHEAD_S + steps * step * (CHECKPOINTING_FACTOR if recipe.gradient_checkpointing else 1)


def job_memory_mib(recipe: Recipe, base: Base, size: BaseSize) -> float:
    """A lane's peak for one job: process, base at its precision, adapter and optimizer state, activations."""
    side = recipe.resolution or base.resolution
    weights = size.parameters * _BYTES[recipe.precision]
    adapter = recipe.rank * size.adapted_features * 4 * ADAPTER_COPIES
    if base.is_toy:
        activations = TOY_ACTIVATION_MIB * (side / 32) ** 2
    else:
        one = CHECKPOINTED_ACTIVATION_MIB if recipe.gradient_checkpointing else ACTIVATION_MIB
        activations = one * (side / 1024) ** 2 * _BYTES[recipe.precision] / 2
    return PROCESS_MIB + (weights + adapter) / 2**20 + activations * recipe.batch_size


def _shapes(base: Base, part: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for file in sorted((base.path / part).glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(min(length, _HEADER_LIMIT)))
        except (OSError, ValueError, struct.error) as problem:
            raise BaseModelError(f"base {base.name!r}: cannot read {file} ({problem}); fetch the base again") from None
        yield from ((name, tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__")
