"""The HTTP API's bodies: OpenAI's image fields and ours. Shapes and bounds only; the base decides the rest.

What stands below a field is its description in the API's documentation.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

from lorafleet.config.manifest import MAX_ADAPTERS, Name
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import RequestError
from lorafleet_serve.engine.named import check_untagged, read_tags
from lorafleet_serve.engine.requests import (
    MAX_CONDITION,
    MAX_GUIDANCE,
    MAX_PROMPT,
    MAX_SCALE,
    MAX_SEED,
    MAX_STEPS,
    Pair,
)

SIZE = re.compile(r"^([1-9]\d{0,4})x([1-9]\d{0,4})$")
Place = Annotated[int, Field(ge=0, le=MAX_CONDITION)]


class Body(Strict):
    """A body of the API."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class AdapterChoice(Body):
    """One adapter to apply."""

    name: Name
    version: Annotated[str | int | None, Field(union_mode="left_to_right")] = None
    """A number or an alias; `champion` by default."""
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)] = 1.0


class ImagesRequest(Body):
    """POST /v1/images/generations."""

    prompt: Annotated[str, Field(max_length=MAX_PROMPT)]
    """Adapters by their triggers, as in `<dog-rex>`; `<lora:dog-rex:0.8>` adds one to `adapters`. `(words:1.2)` weighs
    words, `(words)` is `(words:1.1)`, marks may be nested, weights are 0 to 4, and `\\(` and `\\)` are plain
    parentheses. Prompts longer than the text encoders read at once go in chunks, eight at most."""
    model: str | None = None
    """The served base, if given."""
    n: Annotated[int, Field(ge=1, le=4)] = 1
    size: str | None = None
    """"WxH" in pixels, or "auto" for the base's own."""
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    """Accepted for OpenAI's clients; not used."""
    adapters: Annotated[tuple[AdapterChoice, ...], Field(max_length=MAX_ADAPTERS)] = ()
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = None
    """What to keep out of the picture, with weights as in `prompt`."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Denoising steps; the base's by default. `lcm` and `tcd` take at most 50."""
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE)] | None = None
    """How strongly the prompt counts; by default what base and scheduler ask for. 1 and below: no guidance."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much of guidance's excess contrast is taken back (Lin et al. 2024)."""
    scheduler: str | None = None
    """A sampler; the base's own by default. GET /v1/models lists them."""
    clip_skip: Annotated[int, Field(ge=0)] | None = None
    """Text encoder layers left out for the prompt beside the last; GET /v1/models says how many at most."""
    original_size: str | None = None
    """"WxH" that the picture is said to have had before any scaling; its own by default."""
    target_size: str | None = None
    """"WxH" that the picture is said to have; its own by default."""
    crop: tuple[Place, Place] = (0, 0)
    """Top and left, in pixels, of the crop that the picture is said to be."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED - 4)] | None = None
    """Of the first image; image i has seed + i. Drawn and returned if absent."""

    @field_validator("size", "original_size", "target_size")
    @classmethod
    def _size_is_width_by_height(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and not SIZE.match(value):
            raise ValueError('allowed are "WIDTHxHEIGHT" in pixels, as in "1024x1024", or "auto"')
        return value


def with_tags(request: ImagesRequest) -> ImagesRequest:
    """A request whose prompt's `<lora:NAME:SCALE>` are adapters like others; RequestError for one that cannot be."""
    check_untagged(request.negative_prompt)
    prompt, tags = read_tags(request.prompt)
    if not tags:
        return request
    adapters = [*request.adapters, *(_choice(tag.name, tag.scale) for tag in tags)]
    if len(adapters) > MAX_ADAPTERS:
        raise RequestError(f"{len(adapters)} adapters in one request; at most {MAX_ADAPTERS} are allowed")
    return request.with_changes(prompt=prompt, adapters=adapters)


def _choice(name: str, scale: float) -> AdapterChoice:
    return parse(AdapterChoice, {"name": name, "scale": scale}, f"<lora:{name}:{scale:g}> in the prompt", RequestError)


def sides(size: str | None) -> Pair | None:
    """Width and height in pixels of "WxH"; None for the base's own."""
    match = SIZE.match(size or "")
    return (int(match[1]), int(match[2])) if match else None


class AppliedAdapter(Body):
    """An adapter as it was applied."""

    name: str
    version: int
    scale: float
    run_id: str | None


class ImageData(Body):
    """One image: a PNG in base64, and the seed that makes it again."""

    b64_json: str
    seed: int


class ImagesReply(Body):
    """What POST /v1/images/generations answers."""

    created: int
    data: tuple[ImageData, ...]
    seed: int
    model: str
    adapters: tuple[AppliedAdapter, ...]
    size: str
    steps: int
    guidance_scale: float
    scheduler: str
    notes: tuple[str, ...] = ()
    """What the request may have meant otherwise, such as the trigger of an adapter that it does not name."""


class AdapterInfo(Body):
    """One registered adapter version."""

    name: str
    version: int
    aliases: tuple[str, ...]
    base: str
    triggers: tuple[str, ...]
    run_id: str | None


class AdapterList(Body):
    """What GET /v1/adapters answers."""

    adapters: tuple[AdapterInfo, ...]


class ModelInfo(Body):
    """The served base, with OpenAI's fields first."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lorafleet"
    prediction: str
    licence: str
    resolution: int
    sizes: tuple[str, ...]
    """"WxH" that the base was trained on, its own square first; others between a quarter and twice it are allowed."""
    schedulers: tuple[str, ...]
    """The base's own first."""
    default_steps: int
    default_guidance_scale: float
    """With the base's own scheduler."""
    default_guidance_scales: dict[str, float]
    """With each of the schedulers."""
    max_clip_skip: int


class ModelList(Body):
    """What GET /v1/models answers."""

    object: Literal["list"] = "list"
    data: tuple[ModelInfo, ...]


class ErrorBody(Body):
    """What went wrong: `code` for programs, `message` for people, `type` in OpenAI's terms."""

    code: str
    message: str
    type: str


class ErrorReply(Body):
    """The one shape of every error."""

    error: ErrorBody
