"""What is asked of the engine and what it answers; the one place where a request's bounds are checked.

Knows no tensors, no HTTP and no Ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorafleet.bases import Base
from lorafleet.config.manifest import MAX_ADAPTERS
from lorafleet.errors import RequestError
from lorafleet.ports import AdapterVersion

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PROMPT, MAX_STEPS, MAX_GUIDANCE, MAX_SCALE, MAX_SEED = 2000, 100, 30.0, 4.0, 2**53 - 1
SIDE_MULTIPLE = 8


@dataclass(frozen=True)
class AdapterUse:
    """One adapter of a request and how strongly it is applied."""

    adapter: AdapterVersion
    scale: float = 1.0


@dataclass(frozen=True)
class GenerateRequest:
    """One image to make; None takes the base's default."""

    prompt: str
    seed: int
    negative_prompt: str | None = None
    """None: zeros where the base's model_index.json says so, as in diffusers; else the empty prompt."""
    adapters: tuple[AdapterUse, ...] = ()
    steps: int | None = None
    guidance_scale: float | None = None
    """At or below 1 the conditional output is used alone."""
    scheduler: str | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Settings:
    """A request's numbers with the base's defaults filled in, all within bounds."""

    steps: int
    guidance_scale: float
    scheduler: str
    width: int
    height: int
    seed: int


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image and what made it."""

    image: Image
    request: GenerateRequest
    settings: Settings


def side_bounds(base: Base) -> tuple[int, int]:
    """Least and greatest pixels of a side: a quarter to twice the base's native side, in multiples of 8."""
    least = math.ceil(base.resolution / 4 / SIDE_MULTIPLE) * SIDE_MULTIPLE
    return least, base.resolution * 2


def settle(request: GenerateRequest, base: Base, samplers: tuple[str, ...]) -> Settings:
    """Fills in the base's defaults and checks every bound; RequestError names the field, its value and what is allowed.

    `samplers`: the scheduler names the base can be asked for, its own first.
    """
    _check_prompt("prompt", request.prompt)
    _check_prompt("negative_prompt", request.negative_prompt or "")
    _check_adapters(request.adapters)
    settings = Settings(
        steps=base.default_steps if request.steps is None else request.steps,
        guidance_scale=base.default_guidance if request.guidance_scale is None else request.guidance_scale,
        scheduler=samplers[0] if request.scheduler is None else request.scheduler,
        width=base.resolution if request.width is None else request.width,
        height=base.resolution if request.height is None else request.height,
        seed=request.seed,
    )
    _check_range("steps", settings.steps, 1, MAX_STEPS)
    _check_range("guidance_scale", settings.guidance_scale, 0, MAX_GUIDANCE)
    _check_range("seed", settings.seed, 0, MAX_SEED)
    for name, side in (("width", settings.width), ("height", settings.height)):
        _check_range(name, side, *side_bounds(base))
        if side % SIDE_MULTIPLE:
            raise RequestError(f"{name} is {side}; allowed are multiples of {SIDE_MULTIPLE}")
    if settings.scheduler not in samplers:
        raise RequestError(
            f"scheduler {settings.scheduler!r} does not fit base {base.name!r}; allowed are {', '.join(samplers)}"
        )
    return settings


def _check_range(name: str, value: float, least: float, greatest: float) -> None:
    if not least <= value <= greatest:  # false for NaN too
        raise RequestError(f"{name} is {value}; allowed are {least:g} to {greatest:.16g}")


def _check_prompt(name: str, text: str) -> None:
    if len(text) > MAX_PROMPT:
        raise RequestError(f"{name} has {len(text)} characters; at most {MAX_PROMPT} are allowed")


def _check_adapters(uses: tuple[AdapterUse, ...]) -> None:
    if len(uses) > MAX_ADAPTERS:
        raise RequestError(f"{len(uses)} adapters in one request; at most {MAX_ADAPTERS} are allowed")
    names = [use.adapter.name for use in uses]
    for use in uses:
        _check_range(f"scale of adapter {use.adapter.name!r}", use.scale, -MAX_SCALE, MAX_SCALE)
        if names.count(use.adapter.name) > 1:
            raise RequestError(f"adapter {use.adapter.name!r} is named twice; give each adapter once, with one scale")
