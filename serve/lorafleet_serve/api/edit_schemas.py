"""The body of POST /v1/images/edits: that of generations, and the picture that is edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.api.uploads import MAX_BYTES, file_bytes
from lorafleet_serve.engine.init_image import Strength

OTHER_NAMES = {"init_image": "image", "mask_image": "mask"}


def _decoded(value: object) -> object:
    return file_bytes(value) if isinstance(value, str) else value


File = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "format": "binary", "contentEncoding": "base64", "maxLength": MAX_BYTES}),
]
"""A file's bytes: in a form a file, in JSON base64."""


class EditsRequest(ImagesRequest):
    """POST /v1/images/edits."""

    image: File
    """The picture to begin from, which JSON may also call `init_image`: PNG, JPEG or WebP of at most 20 MiB and 25
    megapixels; a file in a form, base64 in JSON, never a URL. It is scaled until it covers `size` and cropped evenly;
    if `size` is `auto` or absent, to the size nearest in shape of those that the base was trained on."""
    mask: File | None = None
    """Which part of the picture is made anew, which JSON may also call `mask_image`, a picture of the same size: what
    is transparent, as OpenAI's masks have it, or if nothing is, what is white. If absent, the transparent parts of
    `image`; if there are none, all of it."""
    strength: Strength | None = None
    """How much is made anew, above 0 to 1: the part of the steps that is taken. If absent, 0.6 without a mask and 1
    with one."""
    input_fidelity: str | None = None
    """Accepted for OpenAI's clients; not used, which the answer notes. Say `strength`."""

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        for other, name in OTHER_NAMES.items():
            if other in data and name in data:
                raise ValueError(f"{other} is another name of {name}; give one of them")
        return {OTHER_NAMES.get(key, key): value for key, value in data.items()}
