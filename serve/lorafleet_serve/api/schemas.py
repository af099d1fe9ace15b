"""The bodies of the HTTP API: OpenAI's image fields and ours. An image's options and their bounds are the engine's.

The text below a field is its description in the API's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from lorafleet.config.manifest import MAX_ADAPTERS, Name
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import RequestError
from lorafleet_serve.api.words.foreign_names import in_our_names
from lorafleet_serve.engine.prompt_tags import check_untagged, read_tags
from lorafleet_serve.engine.requests import MAX_SEED, ImageOptions, Prompt, Scale, Size, check_adapter_count

SIZE = re.compile(r"^([1-9]\d{0,4})x([1-9]\d{0,4})$")
MAX_IMAGES = 10
UNUSED = {
    "quality": ("auto", "standard"),
    "style": (),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "partial_images": (0,),
    "input_fidelity": (),
}
"""Fields of OpenAI's that mean nothing here, and their values that ask for nothing else than what is done.

The last is one of edits.
"""


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
    response_format: Literal["b64_json", "url"] | None = None
    """`b64_json`: the images are in the answer. `url`: the answer has links on this server, which last ten minutes. If
    absent, both; for a `model` called gpt-image-..., whose answers never have links, `b64_json`."""
    output_format: Literal["png", "jpeg", "webp"] = "png"
    """The images' file format. Each says how it was made: PNG in text chunks, JPEG and WebP in EXIF."""
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    """The quality of a JPEG or WebP: 100 is the best and largest; 95 if absent. A PNG loses nothing, and has none."""
    user: str | None = None
    """Accepted for OpenAI's clients; not used."""
    stream: bool | None = None
    """Accepted for OpenAI's clients; images come whole, so true is refused."""
    partial_images: int | None = None
    """Accepted for OpenAI's clients; not used, which the answer notes."""
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

    @model_validator(mode="before")
    @classmethod
    def _names_of_others_are_understood(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            return body
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {key: value for key, value in in_our_names(body).items() if value is not None or key not in optional}

    @field_validator("stream")
    @classmethod
    def _images_come_whole(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("images come whole; leave it out")
        return value

    @field_validator("size", "original_size", "target_size")
    @classmethod
    def _size_is_width_by_height(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and not SIZE.match(value):
            raise ValueError('allowed are "WIDTHxHEIGHT" in pixels, as in "1024x1024", or "auto"')
        return value


def unused_notes(request: ImagesRequest) -> tuple[str, ...]:
    """Which fields of OpenAI's a request gives that mean nothing here."""
    given = [name for name, usual in UNUSED.items() if getattr(request, name, None) not in (None, *usual)]
    notes = [f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} not used here"] if given else []
    if request.output_format == "png" and request.output_compression not in (None, 100):
        notes.append("output_compression is not used for a PNG; ask for output_format jpeg or webp")
    return tuple(notes)


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


Maybe = Annotated[str | None, Field(exclude_if=lambda value: value is None)]
"""Left out where there is none: clients look which keys are there."""


class ImageData(Body):
    """One image, and the seed that makes it again."""

    b64_json: Maybe = None
    """The file in base64; absent where links alone were asked for."""
    url: Maybe = None
    """Where the file is for ten minutes; absent where it was not asked for."""
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
    output_format: str = "png"
    warnings: tuple[str, ...] = ()
    """What the request asks for in vain, and hints at possible mistakes, such as the trigger of an adapter that the
    request does not name."""


class ErrorBody(Body):
    """What went wrong: `code` for programs, `message` for people, `type` and `param` in OpenAI's terms."""

    message: str
    type: str
    param: str | None = None
    """The field of the body that is wrong, where it is known."""
    code: str


class ErrorReply(Body):
    """The body of every error."""

    error: ErrorBody
