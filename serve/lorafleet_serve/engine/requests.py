"""What is asked of the engine and what it answers; the one place where a request's bounds are checked.

Knows no tensors, no HTTP and no Ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorafleet.bases import Base
from lorafleet.bundle.ports import AdapterVersion
from lorafleet.config.manifest import MAX_ADAPTERS
from lorafleet.errors import RequestError
from lorafleet.sizes import bucket_sizes
from lorafleet.targets import PARTS
from lorafleet_serve.engine.emphasis import parse_emphasis

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PROMPT, MAX_STEPS, MAX_GUIDANCE, MAX_SCALE, MAX_SEED = 2000, 100, 30.0, 4.0, 2**53 - 1
SIDE_MULTIPLE = 8
MAX_CONDITION = 8192
"""Pixels that micro-conditioning may speak of; SDXL saw originals of any size."""
Pair = tuple[int, int]


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
    """At or below 1 the conditional output is used alone; None takes the base's default for the scheduler."""
    scheduler: str | None = None
    width: int | None = None
    height: int | None = None
    guidance_rescale: float = 0.0
    """How much of guidance's excess contrast is taken back: Lin et al. 2024, eq. 15-16; at most 1."""
    clip_skip: int | None = None
    """Layers left out beside the last to encode the prompt, as in diffusers; None or 0 is how the base was trained."""
    original_size: Pair | None = None
    """Width and height that the picture is said to have had before any scaling; the picture's own by default."""
    crop: Pair = (0, 0)
    """Top and left of the crop that the picture is said to be."""
    target_size: Pair | None = None
    """Width and height that the picture is said to have; its own by default."""


@dataclass(frozen=True)
class Settings:
    """A request's numbers with the base's defaults filled in, all within bounds."""

    steps: int
    guidance_scale: float
    scheduler: str
    width: int
    height: int
    seed: int
    original_size: Pair
    target_size: Pair
    crop: Pair = (0, 0)
    guidance_rescale: float = 0.0
    clip_skip: int | None = None

    @property
    def guided(self) -> bool:
        """Whether the negative prompt matters, as in diffusers."""
        return self.guidance_scale > 1

    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """Micro-conditioning in SDXL's order: original height, width, crop top, left, target height, width.

        Podell et al. 2023, section 2.2.
        """
        (original_width, original_height), (target_width, target_height) = self.original_size, self.target_size
        return original_height, original_width, *self.crop, target_height, target_width


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


def most_clip_skip(base: Base) -> int:
    """The most layers that both text encoders can leave out beside the last: all but the embeddings."""
    return min(int(base.config(part)["num_hidden_layers"]) for part in PARTS[1:]) - 1


def recommended_sizes(base: Base) -> tuple[Pair, ...]:
    """Widths and heights that the base knows best, its own square first, then from wide to tall."""
    square = (base.resolution, base.resolution)
    wide_to_tall = sorted({(width, height) for height, width in bucket_sizes(base.resolution)} - {square}, reverse=True)
    return (square, *wide_to_tall)


def settle(request: GenerateRequest, base: Base, samplers: tuple[str, ...]) -> Settings:
    """Fills in the base's defaults and checks every bound; RequestError names the field, its value and what is allowed.

    `samplers`: the scheduler names the base can be asked for, its own first.
    """
    _check_prompt("prompt", request.prompt)
    _check_prompt("negative_prompt", request.negative_prompt or "")
    _check_adapters(request.adapters)
    width = base.resolution if request.width is None else request.width
    height = base.resolution if request.height is None else request.height
    scheduler = samplers[0] if request.scheduler is None else request.scheduler
    settings = Settings(
        steps=base.default_steps if request.steps is None else request.steps,
        guidance_scale=base.guidance_with(scheduler) if request.guidance_scale is None else request.guidance_scale,
        scheduler=scheduler,
        width=width,
        height=height,
        seed=request.seed,
        original_size=request.original_size or (width, height),
        crop=request.crop,
        target_size=request.target_size or (width, height),
        guidance_rescale=request.guidance_rescale,
        clip_skip=request.clip_skip or None,
    )
    _check_numbers(settings, base)
    if settings.scheduler not in samplers:
        raise RequestError(
            f"scheduler {settings.scheduler!r} does not fit base {base.name!r}; allowed are {', '.join(samplers)}"
        )
    return settings


def _check_numbers(settings: Settings, base: Base) -> None:
    _check_range("steps", settings.steps, 1, MAX_STEPS)
    _check_range("guidance_scale", settings.guidance_scale, 0, MAX_GUIDANCE)
    _check_range("guidance_rescale", settings.guidance_rescale, 0, 1)
    _check_range("seed", settings.seed, 0, MAX_SEED)
    if settings.clip_skip is not None:
        _check_range("clip_skip", settings.clip_skip, 0, most_clip_skip(base))
    for name, side in (("width", settings.width), ("height", settings.height)):
        _check_range(name, side, *side_bounds(base))
        if side % SIDE_MULTIPLE:
            raise RequestError(f"{name} is {side}; allowed are multiples of {SIDE_MULTIPLE}")
    for name, sides in (("original_size", settings.original_size), ("target_size", settings.target_size)):
        for side in sides:
            _check_range(name, side, 1, MAX_CONDITION)
    for place in settings.crop:
        _check_range("crop", place, 0, MAX_CONDITION)


def _check_range(name: str, value: float, least: float, greatest: float) -> None:
    if not least <= value <= greatest:  # false for NaN too
        raise RequestError(f"{name} is {value}; allowed are {least:g} to {greatest:.16g}")


def _check_prompt(name: str, text: str) -> None:
    if len(text) > MAX_PROMPT:
        raise RequestError(f"{name} has {len(text)} characters; at most {MAX_PROMPT} are allowed")
    parse_emphasis(text)


def _check_adapters(uses: tuple[AdapterUse, ...]) -> None:
    if len(uses) > MAX_ADAPTERS:
        raise RequestError(f"{len(uses)} adapters in one request; at most {MAX_ADAPTERS} are allowed")
    names = [use.adapter.name for use in uses]
    for use in uses:
        _check_range(f"scale of adapter {use.adapter.name!r}", use.scale, -MAX_SCALE, MAX_SCALE)
        if names.count(use.adapter.name) > 1:
            raise RequestError(f"adapter {use.adapter.name!r} is named twice; give each adapter once, with one scale")
