"""The HTTP API's bodies: OpenAI's image fields and ours. Shapes and bounds only; the base decides the rest."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from lorafleet.config.manifest import MAX_ADAPTERS, Name
from lorafleet.config.strict import Strict
from lorafleet_serve.requests import MAX_GUIDANCE, MAX_PROMPT, MAX_SCALE, MAX_SEED, MAX_STEPS

SIZE = re.compile(r"^([1-9]\d{0,4})x([1-9]\d{0,4})$")


class AdapterChoice(Strict):
    """One adapter to apply."""

    name: Name
    version: Annotated[str | int | None, Field(union_mode="left_to_right")] = None
    """A number or an alias; `champion` by default."""
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)] = 1.0


class ImagesRequest(Strict):
    """POST /v1/images/generations."""

    prompt: Annotated[str, Field(max_length=MAX_PROMPT)]
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
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE)] | None = None
    scheduler: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED - 4)] | None = None
    """Of the first image; image i has seed + i. Drawn and returned if absent."""

    @field_validator("size")
    @classmethod
    def _size_is_width_by_height(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and not SIZE.match(value):
            raise ValueError('allowed are "WIDTHxHEIGHT" in pixels, as in "1024x1024", or "auto"')
        return value

    def sides(self) -> tuple[int | None, int | None]:
        """Width and height in pixels; None for the base's own."""
        match = SIZE.match(self.size or "")
        return (int(match[1]), int(match[2])) if match else (None, None)


class AppliedAdapter(Strict):
    """An adapter as it was applied."""

    name: str
    version: int
    scale: float
    run_id: str | None


class ImageData(Strict):
    """One image: a PNG in base64, and the seed that makes it again."""

    b64_json: str
    seed: int


class ImagesReply(Strict):
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


class AdapterInfo(Strict):
    """One registered adapter version."""

    name: str
    version: int
    aliases: tuple[str, ...]
    base: str
    triggers: tuple[str, ...]
    run_id: str | None


class AdapterList(Strict):
    """What GET /v1/adapters answers."""

    adapters: tuple[AdapterInfo, ...]


class ModelInfo(Strict):
    """The served base, with OpenAI's fields first."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lorafleet"
    prediction: str
    licence: str
    resolution: int
    schedulers: tuple[str, ...]
    default_steps: int
    default_guidance_scale: float


class ModelList(Strict):
    """What GET /v1/models answers."""

    object: Literal["list"] = "list"
    data: tuple[ModelInfo, ...]


class ErrorBody(Strict):
    """What went wrong: `code` for programs, `message` for people, `type` in OpenAI's terms."""

    code: str
    message: str
    type: str


class ErrorReply(Strict):
    """The one shape of every error."""

    error: ErrorBody
