"""What `auto` comes to on a device: how many jobs a pack has, and whether gradients are checkpointed.

Of everything that fits, the fastest by `step_time`. Only what leaves the result alone is chosen: precision and
optimizer change what is learned, so that a refusal may name them (`memory_refusal`) and nothing takes them unasked.
Pure; refuses to know how a device is found (`machine`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorafleet.bases import Base
from lorafleet.config import Recipe, Resources
from lorafleet.config.strict import Strict
from lorafleet_jobs.intake.base_size import BaseSize
from lorafleet_jobs.intake.machine import Device
from lorafleet_jobs.intake.memory_model import LaneMemory, job_memory
from lorafleet_jobs.intake.step_time import step_seconds

LARGEST_PACK = 8
"""With `auto`: from 8 to 16 rows a toy UNet gains little more (`benchmarks/results/rows.json`)."""
MARGIN = 1.1
"""Factor on all but the base: allocators leave gaps. `lorafleet_jobs.train.memory` has the same for the next job."""
CONTEXT_MIB = 600.0
"""Of a CUDA context and its libraries, which PyTorch's allocator does not count. An allowance, not measured."""
PROCESS_MIB = 500.0
"""On a CPU: a process that has imported torch and diffusers."""


class Choice(Strict):
    """How a lane trains its jobs, and what that takes of its device."""

    pack: int
    """Jobs at once."""
    gradient_checkpointing: bool
    """Of the recipes that say `auto`, if there are any."""
    precisions: tuple[str, ...]
    """Of the recipes; the base is loaded in one after another."""
    device: Device
    """What the lane has."""
    peak_memory_mib: float
    """Of the lane's life; on a GPU as PyTorch's allocator counts it."""
    needed_mib: float
    """What a device must have for it, with context and gaps."""

    @property
    def fits(self) -> bool:
        """Whether the device has what is needed."""
        return self.needed_mib <= self.device.mib

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with what was chosen in the place of `auto`."""
        return _decided(recipe, self.gradient_checkpointing)


def choose(
    device: Device, recipes: Sequence[Recipe], base: Base, size: BaseSize, resources: Resources, share: int
) -> Choice:
    """The fastest way that fits to train `share` jobs of these recipes on one lane; if none fits, the smallest.

    There is at least one recipe. A pack that the manifest names is taken, whether it fits or not. Workers that share
    jobs take one job at a time.
    """
    on_gpu = device.on_gpu
    ways = [_Way.of(recipes, base, size, checkpointing) for checkpointing in _either(recipes)]
    options = [(way, pack) for way in ways for pack in _packs(recipes, resources, share)]
    fitting = [(way, pack) for way, pack in options if way.needed_mib(pack, on_gpu) <= device.mib]

    def cost(option: tuple[_Way, int]) -> tuple[float, int, bool]:
        way, pack = option
        return way.seconds(base, on_gpu, pack, share), -pack, way.checkpointing

    way, pack = min(fitting, key=cost) if fitting else min(options, key=lambda o: o[0].needed_mib(o[1], on_gpu))
    return Choice(
        pack=pack,
        gradient_checkpointing=way.checkpointing,
        precisions=tuple(dict.fromkeys(recipe.precision for recipe in recipes)),
        device=device,
        peak_memory_mib=way.peak_mib(pack, on_gpu),
        needed_mib=way.needed_mib(pack, on_gpu),
    )


@dataclass(frozen=True)
class _Way:
    """Recipes with `auto` decided one way, and what one job of each takes."""

    checkpointing: bool
    recipes: Sequence[Recipe]
    memories: Sequence[LaneMemory]

    @classmethod
    def of(cls, recipes: Sequence[Recipe], base: Base, size: BaseSize, checkpointing: bool) -> _Way:
        decided = [_decided(recipe, checkpointing) for recipe in recipes]
        return cls(checkpointing, decided, [job_memory(one, base, size) for one in decided])

    def peak_mib(self, pack: int, on_gpu: bool) -> float:
        peak = max(memory.times(pack).peak for memory in self.memories)
        return round(peak + (0.0 if on_gpu else PROCESS_MIB))

    def needed_mib(self, pack: int, on_gpu: bool) -> float:
        return round(max(needed_mib(memory.times(pack), on_gpu) for memory in self.memories))

    def seconds(self, base: Base, on_gpu: bool, pack: int, share: int) -> float:
        """Of a step of each of `share` jobs, for each recipe: so many full packs, and one of the rest."""
        full, rest = divmod(max(share, 1), pack)
        packs = [(full, pack), (1, rest)] if rest else [(full, pack)]
        return sum(times * step_seconds(recipe, base, on_gpu, n) for recipe in self.recipes for times, n in packs)


def needed_mib(memory: LaneMemory, on_gpu: bool) -> float:
    """What a device must have for a lane: its peak, gaps between what is allocated, and the process's own."""
    return memory.base + MARGIN * (memory.peak - memory.base) + (CONTEXT_MIB if on_gpu else PROCESS_MIB)


def gib(mib: float) -> str:
    """For people."""
    return f"{mib / 1024:.1f}"


def _packs(recipes: Sequence[Recipe], resources: Resources, share: int) -> range:
    if any(recipe.workers > 1 for recipe in recipes):
        return range(1, 2)
    if resources.pack != "auto":
        pack = min(resources.pack, max(1, share))
        return range(pack, pack + 1)
    return range(1, max(1, min(share, LARGEST_PACK)) + 1)


def _either(recipes: Sequence[Recipe]) -> tuple[bool, ...]:
    """What `auto` may come to; where no recipe says it, there is nothing to decide."""
    return (False, True) if any(recipe.gradient_checkpointing == "auto" for recipe in recipes) else (False,)


def _decided(recipe: Recipe, checkpointing: bool) -> Recipe:
    return (
        recipe if recipe.gradient_checkpointing != "auto" else recipe.with_changes(gradient_checkpointing=checkpointing)
    )
