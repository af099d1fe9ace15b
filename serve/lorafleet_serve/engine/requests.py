"""One image to make: its options and their bounds, what the base fills in, and the finished image.

Every bound of a request is written here and nowhere else. The HTTP body inherits `ImageOptions`; the command line and
Python callers make a `GenerateRequest`. Bounds that depend on the base are checked by `with_defaults`.
Knows no tensors, no HTTP and no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from lorafleet.bases import Base
from lorafleet.bundle.ports import AdapterVersion
from lorafleet.config.manifest import MAX_ADAPTERS
from lorafleet.config.strict import Strict, describe
from lorafleet.errors import RequestError
from lorafleet.sizes import bucket_sizes
from lorafleet.targets import PARTS
from lorafleet_serve.engine.emphasis import parse_emphasis
from lorafleet_serve.engine.init_image import InitImage

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SEED = 2**53 - 1
SIDE_MULTIPLE = 8
MAX_CONDITION = 8192
"""The largest size or offset, in pixels, in micro-conditioning; SDXL was trained on originals of any size."""
Prompt = Annotated[str, Field(max_length=2000)]
Scale = Annotated[float, Field(ge=-4, le=4)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Offset = Annotated[int, Field(ge=0, le=MAX_CONDITION)]
Side = Annotated[int, Field(ge=1, le=MAX_CONDITION)]
Size = tuple[Side, Side]
"""Width and height in pixels."""


@dataclass(frozen=True)
class AdapterUse:
    """One adapter of a request and how strongly it is applied."""

    adapter: AdapterVersion
    scale: Scale = 1.0


class ImageOptions(Strict):
    """The options that HTTP, the command line and the engine have in common; None takes the base's default.

    The text below a field is its description in the HTTP API's documentation. A new option takes a field here, its use
    in the engine, and an option of `lorafleet generate` in `commands`; the rest follows.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    prompt: Prompt
    """What the image shows."""
    negative_prompt: Prompt | None = None
    """What to keep out of the image, with weights as in `prompt`. If absent, the base decides, as in diffusers: zeros
    where its model_index.json says so, otherwise the empty prompt."""
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    """Denoising steps; the base's default if absent. `lcm` and `tcd` take at most 50."""
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    """How strongly the image follows the prompt (classifier-free guidance). If absent, the base's default for the
    scheduler. 1 and below turn guidance off."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much of the excess contrast that guidance adds is removed, 0 to 1 (Lin et al. 2024, eq. 15-16)."""
    clip_skip: Annotated[int, Field(ge=0)] | None = None
    """How many more of the text encoders' last layers are skipped for the prompt than the base itself skips, as in
    diffusers; 0 or absent is how the base was trained. GET /v1/models gives the most that are allowed."""
    scheduler: str | None = None
    """The sampler; the base's own if absent. GET /v1/models lists them."""
    crop: tuple[Offset, Offset] = (0, 0)
    """SDXL's micro-conditioning `crop_coords_top_left`: pixels that were cut from the top and left of training images.
    (0, 0), the default, gives a centred subject; larger values give an image that looks cut off there."""

    @field_validator("clip_skip")
    @classmethod
    def _zero_skips_nothing(cls, value: int | None) -> int | None:
        return value or None


class GenerateRequest(ImageOptions):
    """One image to make. RequestError from its constructor if an option is unknown or out of bounds."""

    model_config = ConfigDict(revalidate_instances="always")

    seed: Seed
    adapters: tuple[AdapterUse, ...] = ()
    width: int | None = None
    height: int | None = None
    original_size: Size | None = None
    """SDXL's micro-conditioning `original_size`; the image's own size by default."""
    target_size: Size | None = None
    """SDXL's micro-conditioning `target_size`; the image's own size by default."""
    init: InitImage | None = None
    """What the image begins from; its size is the image's."""

    def __init__(self, prompt: str, seed: int, **options: Any) -> None:
        fields = {"prompt": prompt, "seed": seed, **options}
        try:
            super().__init__(**fields)
        except ValidationError as problem:
            raise RequestError(describe(problem, type(self), fields)) from None

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _weights_are_in_bounds(cls, value: str | None) -> str | None:
        parse_emphasis(value or "")
        return value

    @model_validator(mode="after")
    def _adapters_are_few_and_differ(self) -> Self:
        names = [use.adapter.name for use in self.adapters]
        check_adapter_count(len(names))
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"adapter {name!r} is named twice; give each adapter once, with one scale")
        return self


@dataclass(frozen=True)
class Settings:
    """A request with the base's defaults filled in, all within the base's bounds."""

    request: GenerateRequest
    base: Base
    steps: int
    guidance_scale: float
    scheduler: str
    width: int
    height: int
    original_size: Size
    target_size: Size

    @property
    def first_step(self) -> int:
        """How many steps are left out at the beginning, where an init image stands for them; as in diffusers."""
        init = self.request.init
        return 0 if init is None else self.steps - int(self.steps * init.strength)

    @property
    def guided(self) -> bool:
        """Whether the negative prompt matters, as in diffusers."""
        return self.guidance_scale > 1

    def time_ids(self) -> tuple[int, int, int, int, int, int]:
        """Micro-conditioning in SDXL's order: original height, width, crop top, left, target height, width.

        Podell et al. 2023, section 2.2.
        """
        (original_width, original_height), (target_width, target_height) = self.original_size, self.target_size
        return original_height, original_width, *self.request.crop, target_height, target_width

    def options(self) -> dict[str, object]:
        """Every option by name, as it is used; the crop is in `time_ids`."""
        names = {*ImageOptions.model_fields, "seed"} - {"crop"}
        filled = {"steps": self.steps, "guidance_scale": self.guidance_scale, "scheduler": self.scheduler}
        return self.request.model_dump(include=names) | filled


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image and what made it."""

    image: Image
    settings: Settings


def check_adapter_count(count: int) -> None:
    """RequestError for more adapters than a request may have."""
    if count > MAX_ADAPTERS:
        raise RequestError(f"{count} adapters in one request; at most {MAX_ADAPTERS} are allowed")


def side_bounds(base: Base) -> tuple[int, int]:
    """Least and greatest pixels of a side: a quarter to twice the base's native side, in multiples of 8."""
    least = math.ceil(base.resolution / 4 / SIDE_MULTIPLE) * SIDE_MULTIPLE
    return least, base.resolution * 2


def most_clip_skip(base: Base) -> int:
    """The most layers that both text encoders can skip in addition to the last: all but the embeddings."""
    return min(int(base.config(part)["num_hidden_layers"]) for part in PARTS[1:]) - 1


def recommended_sizes(base: Base) -> tuple[Size, ...]:
    """Widths and heights that the base was trained on: its own square first, then from wide to tall."""
    square = (base.resolution, base.resolution)
    wide_to_tall = sorted({(width, height) for height, width in bucket_sizes(base.resolution)} - {square}, reverse=True)
    return (square, *wide_to_tall)


def nearest_size(base: Base, width: int, height: int) -> Size:
    """Of the sizes that the base was trained on, the one most like a picture in shape."""
    return min(recommended_sizes(base), key=lambda size: abs(math.log(size[0] * height / size[1] / width)))


def with_defaults(request: GenerateRequest, base: Base, samplers: Sequence[str]) -> Settings:
    """Fills in the base's defaults; RequestError names a field out of the base's bounds, its value and what is allowed.

    `samplers`: the names of the schedulers that the base can be asked for, its own first.
    """
    own_width, own_height = (base.resolution, base.resolution) if request.init is None else request.init.size
    width = own_width if request.width is None else request.width
    height = own_height if request.height is None else request.height
    scheduler = samplers[0] if request.scheduler is None else request.scheduler
    _check_range("clip_skip", request.clip_skip or 0, 0, most_clip_skip(base))
    check_size(base, width, height)
    if scheduler not in samplers:
        raise RequestError(
            f"scheduler {scheduler!r} does not fit base {base.name!r}; allowed are {', '.join(samplers)}"
        )
    settings = Settings(
        request=request,
        base=base,
        steps=base.default_steps if request.steps is None else request.steps,
        guidance_scale=base.guidance_with(scheduler) if request.guidance_scale is None else request.guidance_scale,
        scheduler=scheduler,
        width=width,
        height=height,
        original_size=request.original_size or (width, height),
        target_size=request.target_size or (width, height),
    )
    if request.init is not None:
        _check_init(settings, request.init)
    return settings


def _check_init(settings: Settings, init: InitImage) -> None:
    width, height = init.size
    if (width, height) != (settings.width, settings.height):
        raise RequestError(
            f"the init image is {width}x{height} and the image {settings.width}x{settings.height}; scale it to that"
        )
    if settings.first_step == settings.steps:
        least = math.ceil(1000 / settings.steps) / 1000
        raise RequestError(
            f"strength is {init.strength:g}, which leaves none of {settings.steps} steps to take; with so many "
            f"allowed are {least:g} to 1"
        )


def check_size(base: Base, width: int, height: int) -> None:
    """RequestError for a side out of the base's bounds."""
    for name, side in (("width", width), ("height", height)):
        _check_range(name, side, *side_bounds(base))
        if side % SIDE_MULTIPLE:
            raise RequestError(f"{name} is {side}; allowed are multiples of {SIDE_MULTIPLE}")


def _check_range(name: str, value: int, least: int, greatest: int) -> None:
    if not least <= value <= greatest:
        raise RequestError(f"{name} is {value}; allowed are {least} to {greatest}")
