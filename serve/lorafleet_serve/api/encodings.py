"""Images as PNG, JPEG or WebP, each with how it was made.

A PNG has its text chunks (see `png`). JPEG and WebP have EXIF: `UserComment` is A1111's `parameters` text, as its
readers expect it, and `MakerNote` is the JSON document of the PNG's `lorafleet` chunk.
"""

from __future__ import annotations

import io
import json

from PIL.Image import Exif

from lorafleet_serve.api.png import a1111_parameters, png_bytes, provenance
from lorafleet_serve.engine.requests import GeneratedImage, Settings

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
QUALITY = 95
"""Of a JPEG or WebP if the request says nothing; above it a JPEG grows and hardly gains."""
EXIF_IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
UNICODE = b"UNICODE\0"
"""The code of UTF-16 text in `UserComment`, Exif 2.32, section 4.6.5."""


def encoded(made: GeneratedImage, output_format: str = "png", quality: int | None = None) -> bytes:
    """An image file of one of `MEDIA_TYPES`; `quality` is 0 to 100, and a PNG has none."""
    if output_format == "png":
        return png_bytes(made)
    stream = io.BytesIO()
    quality = QUALITY if quality is None else quality
    made.image.convert("RGB").save(stream, format=output_format, quality=quality, exif=exif_of(made.settings))
    return stream.getvalue()


def exif_of(settings: Settings) -> Exif:
    """How an image was made, as EXIF."""
    exif = Exif()
    inner = exif.get_ifd(EXIF_IFD)
    inner[USER_COMMENT] = UNICODE + a1111_parameters(settings).encode("utf-16-be")
    inner[MAKER_NOTE] = json.dumps(provenance(settings), ensure_ascii=False).encode()
    return exif
