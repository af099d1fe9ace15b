"""What does not fit in memory: refused before anything starts where the memory is known, noted where it is not.

A refusal says what takes how much, and the mildest change of the recipe with which one job would fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.base_size import BaseSize
from lorafleet_jobs.intake.choose import Choice, gib, needed_mib
from lorafleet_jobs.intake.memory_model import job_memory

NOT_THERE = "a quantised base and offloading to the host are not implemented"
CARDS_GB = (8, 12, 16, 24, 32, 48, 80, 96, 141)
"""Sizes that cards come in; their drivers tell up to a hundredth less."""


def refuse_memory(choice: Choice, recipes: Sequence[Recipe], base: Base, size: BaseSize, where: str) -> None:
    """Raises ManifestError if not even one job fits on a GPU whose memory is known; says what would fit.

    A pack that is too large is no error: a lane takes in only as many jobs as fit.
    """
    device = choice.device
    if choice.fits or device.is_assumed or not device.on_gpu:
        return
    alone = [_needed_alone(recipe, base, size) for recipe in recipes]
    most = max(alone)
    if most <= device.mib:
        return
    worst = recipes[alone.index(most)]
    parts = job_memory(_smallest(worst), base, size)
    remedy = _remedy(worst, base, size, device.mib)
    raise ManifestError(
        f"{where}: one job needs {gib(most)} GiB of a GPU's memory (base {gib(parts.base)}, adapter and optimizer "
        f"{gib(parts.adapters)}, activations {gib(parts.activations)} or a picture in the VAE {gib(parts.picture)}, "
        f"context and gaps), and there are {gib(device.mib)} ({device.source}); {remedy}"
    )


def memory_note(choice: Choice) -> str | None:
    """What to say of a choice that is estimated not to fit and is tried all the same; None if it fits."""
    device, needed = choice.device, gib(choice.needed_mib)
    if choice.fits:
        return None
    jobs = "one job" if choice.pack == 1 else f"a pack of {choice.pack}"
    if device.is_assumed:
        return (
            f"{jobs} needs {needed} GiB of a GPU's memory, and {gib(device.mib)} are assumed; "
            "resources.gpu_memory_gib says what there is"
        )
    if device.on_gpu:
        return f"{jobs} needs {needed} GiB, and there are {gib(device.mib)} ({device.source}); a lane trains what fits"
    return f"{jobs} needs {needed} GiB, and a lane's share of this machine's memory is {gib(device.mib)}"


def _needed_alone(recipe: Recipe, base: Base, size: BaseSize) -> float:
    """Of one job on a GPU, in the smallest way that the recipe allows."""
    return needed_mib(job_memory(_smallest(recipe), base, size), on_gpu=True)


def _smallest(recipe: Recipe) -> Recipe:
    if recipe.gradient_checkpointing != "auto":
        return recipe
    return recipe.with_changes(gradient_checkpointing=True)


def _remedy(recipe: Recipe, base: Base, size: BaseSize, mib: float) -> str:
    """The mildest change with which one job fits, else several together, else what to buy and what is not there."""
    changes = list(_milder(recipe, base))
    together = [dict(pair for change in changes[: i + 1] for pair in change.items()) for i in range(len(changes))]
    for change in (*changes, *together):
        if _needed_alone(recipe.with_changes(**change), base, size) <= mib:
            return f"{_written(change)} would fit"
    least = _needed_alone(recipe.with_changes(**together[-1]), base, size) if together else None
    even = f"even with {_written(together[-1])} it needs {gib(least)}, and " if least is not None else ""
    wanted = _needed_alone(recipe, base, size) / 1024
    card = next((gb for gb in CARDS_GB if 0.99 * gb >= wanted), math.ceil(wanted))
    return f"{even}{NOT_THERE}; use a GPU of {card} GB or more"


def _written(change: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in change.items())


def _milder(recipe: Recipe, base: Base) -> Iterator[dict[str, object]]:
    if recipe.gradient_checkpointing is False:
        yield {"gradient_checkpointing": "auto"}
    if recipe.precision == "fp32":
        yield {"precision": "bf16"}
    if recipe.batch_size > 1:
        yield {"batch_size": 1}
    if recipe.optimizer == "adamw":
        yield {"optimizer": "adamw8bit"}
    for rank in (16, 8, 4) if recipe.alpha is None else ():
        if rank < recipe.rank:
            yield {"rank": rank}
    side = recipe.resolution or base.resolution
    for smaller in (768, 512):
        if smaller < side:
            yield {"resolution": smaller}
