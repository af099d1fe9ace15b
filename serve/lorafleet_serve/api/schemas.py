"""The bodies of the HTTP API: OpenAI's image fields and ours. An image's options and their bounds are the engine's.

The text below a field is its description in the API's documentation.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator

from lorafleet.config.manifest import MAX_ADAPTERS, Name
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import RequestError
from lorafleet_serve.engine.prompt_tags import check_untagged, read_tags
from lorafleet_serve.engine.requests import MAX_SEED, ImageOptions, Prompt, Scale, Size, check_adapter_count

SIZE = re.compile(r"^([1-9]\d{0,4})x([1-9]\d{0,4})$")
MAX_IMAGES = 10
UNUSED = ("quality", "style", "background", "moderation", "input_fidelity")
"""Fields of OpenAI's that mean nothing here; the last is one of edits."""


class Body(Strict):
    """A body of the API."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class AdapterChoice(Body):
    """One adapter to apply."""

    name: Name
    version: Annotated[str | int | None, Field(union_mode="left_to_right")] = None
    """A number or an alias; `champion` by default."""
    scale: Scale = 1.0
    """How strongly it is applied."""


class ImagesRequest(ImageOptions):
    """POST /v1/images/generations."""

    prompt: Prompt
    """What the image shows. An adapter's trigger, as in `<dog-rex>`, stands for its subject; `<lora:dog-rex:0.8>` adds
    the adapter to `adapters` with scale 0.8. `(words:1.2)` gives words a weight of 1.2 and `(words)` one of 1.1;
    parentheses may be nested, weights are 0 to 4, and `\\(` and `\\)` are plain parentheses. A prompt longer than
    the text encoders read at once is encoded in chunks, eight at most."""
    model: str | None = None
    """The served base, or an adapter on it, as GET /v1/models lists them: `dog-rex`, `dog-rex@3`, `dog-rex@champion`.
    An adapter so chosen has scale 1, unless `adapters` names it too."""
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    """How many images to make, with consecutive seeds."""
    size: str | None = None
    """Width and height of the image in pixels, as in `1024x1024`; `auto` or absent is the base's own size."""
    response_format: Literal["b64_json"] = "b64_json"
    user: str | None = None
    """Accepted for OpenAI's clients; not used."""
    quality: str | None = None
    """Accepted for OpenAI's clients; not used, which the answer notes. Say `steps` and `guidance_scale`."""
    style: str | None = None
    """Accepted for OpenAI's clients; not used, which the answer notes. Say it in the prompt, or by an adapter."""
    background: str | None = None
    """Accepted for OpenAI's clients; not used, which the answer notes."""
    moderation: str | None = None
    """Accepted for OpenAI's clients; not used, which the answer notes."""
    adapters: Annotated[tuple[AdapterChoice, ...], Field(max_length=MAX_ADAPTERS)] = ()
    """The adapters to apply; give each once."""
    original_size: str | None = None
    """SDXL's micro-conditioning `original_size`, width and height as in `1024x1024`: the size that training images had
    before they were scaled to the training resolution. A small one gives the blurred look of enlarged pictures. The
    image's own size if absent."""
    target_size: str | None = None
    """SDXL's micro-conditioning `target_size`, width and height as in `1024x1024`: the size that training images were
    scaled to. The image's own size if absent."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED - MAX_IMAGES)] | None = None
    """The seed of the first image; image i has seed + i. If absent, one is drawn and returned."""

    @field_validator("size", "original_size", "target_size")
    @classmethod
    def _size_is_width_by_height(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and not SIZE.match(value):
            raise ValueError('allowed are "WIDTHxHEIGHT" in pixels, as in "1024x1024", or "auto"')
        return value


def unused_note(request: ImagesRequest) -> str | None:
    """Which fields of OpenAI's a request gives that mean nothing here; None if there are none."""
    given = [name for name in UNUSED if getattr(request, name, None) not in (None, "auto")]
    return f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} not used here" if given else None


def with_tags(request: ImagesRequest) -> ImagesRequest:
    """The request with its prompt's tags `<lora:NAME:SCALE>` moved to `adapters`; RequestError for a wrong one."""
    check_untagged(request.negative_prompt)
    prompt, tags = read_tags(request.prompt)
    if not tags:
        return request
    adapters = [*request.adapters, *(_choice(tag.name, tag.scale) for tag in tags)]
    check_adapter_count(len(adapters))
    return request.with_changes(prompt=prompt, adapters=adapters)


def _choice(name: str, scale: float) -> AdapterChoice:
    return parse(AdapterChoice, {"name": name, "scale": scale}, f"<lora:{name}:{scale:g}> in the prompt", RequestError)


def parse_size(size: str | None) -> Size | None:
    """Width and height in pixels of "WxH"; None for "auto" and None, which are the base's own."""
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
    """Seconds since 1970."""
    data: tuple[ImageData, ...]
    seed: int
    """The seed of the first image."""
    model: str
    adapters: tuple[AppliedAdapter, ...]
    size: str
    steps: int
    guidance_scale: float
    scheduler: str
    notes: tuple[str, ...] = ()
    """Hints at possible mistakes, such as the trigger of an adapter that the request does not name."""


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
    """Sizes that the base was trained on, its own square first. Others are allowed: sides from a quarter of the
    resolution to twice it, in multiples of 8."""
    schedulers: tuple[str, ...]
    """The samplers that can be asked for, the base's own first."""
    default_steps: int
    default_guidance_scale: float
    """With the base's own scheduler."""
    default_guidance_scales: dict[str, float]
    """With each of the schedulers."""
    max_clip_skip: int
    """The largest `clip_skip` that is allowed."""


class AdapterModel(Body):
    """An adapter as a model, with OpenAI's fields first."""

    id: str
    """Its name, which means its champion; or as it was asked for, `NAME@VERSION`."""
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lorafleet"
    base: str
    version: int
    aliases: tuple[str, ...]
    triggers: tuple[str, ...]
    """The words of a prompt that stand for what it has learned."""


class ModelList(Body):
    """What GET /v1/models answers: the served base, then the adapters on it by name."""

    object: Literal["list"] = "list"
    data: tuple[ModelInfo | AdapterModel, ...]


class AdapterVersions(Body):
    """What GET /v1/adapters/NAME answers: its versions, the newest first."""

    name: str
    versions: tuple[AdapterInfo, ...]


class ErrorBody(Body):
    """What went wrong: `code` for programs, `message` for people, `type` in OpenAI's terms."""

    code: str
    message: str
    type: str


class ErrorReply(Body):
    """The body of every error."""

    error: ErrorBody
