"""Files of pictures that callers send, decoded within bounds. Refuses to know HTTP, and fetches nothing."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from lorafleet.errors import RequestError
from lorafleet.util.damaged import DAMAGE
from lorafleet_serve.engine.init_image import Picture

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 25 * 10**6
MAX_SIDE = 16384
READ = ("PNG", "JPEG", "WEBP")
_URL = re.compile(r"^[a-z][a-z0-9+.-]{1,15}://", re.IGNORECASE)
_DATA_URL = re.compile(r"^data:[^,]{0,100},", re.IGNORECASE)
_SIXTEEN_BITS = ("I", "F")
"""How the names of Pillow's modes begin whose levels are not from 0 to 255."""


def file_bytes(text: str) -> bytes:
    """The file that `text` holds in base64, perhaps as a data URL. ValueError says what else it is, and what to do."""
    if _URL.match(text):
        raise ValueError("this is a URL, and nothing is fetched; send the file itself, in a form or in base64")
    coded = text[found.end() :] if (found := _DATA_URL.match(text)) else text
    if len(coded) > (MAX_BYTES + 2) // 3 * 4 + MAX_BYTES // 50:  # some break lines
        raise ValueError(_too_many_bytes(len(coded) * 3 // 4))
    try:
        return base64.b64decode("".join(coded.split()), validate=True)
    except binascii.Error:
        raise ValueError("this is no base64; send the file's bytes in base64, or the file in a form") from None


def picture_file(path: Path) -> Picture:
    """The picture in a file, by the rules of `read_picture`. RequestError, also if there is no such file."""
    try:
        return read_picture(path.read_bytes(), str(path))
    except OSError as problem:
        raise RequestError(f"{path} cannot be read ({problem.strerror}); name a PNG, JPEG or WebP file") from None


def read_picture(data: bytes, what: str) -> Picture:
    """Decodes a file, the right way up; of an animation the first frame. RequestError, which names it as `what`."""
    if not data:
        raise RequestError(f"{what} is empty; send a PNG, JPEG or WebP file")
    if len(data) > MAX_BYTES:
        raise RequestError(f"{what}: {_too_many_bytes(len(data))}")
    with _damage_as_request_error(what), Image.open(BytesIO(data), formats=READ) as image:
        width, height = image.size
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            raise RequestError(
                f"{what} has {width} x {height} pixels; allowed are {MAX_PIXELS // 10**6} megapixels and sides up to "
                f"{MAX_SIDE}; save it smaller"
            )
        if image.mode.startswith(_SIXTEEN_BITS):
            raise RequestError(f"{what} has 16 bits a pixel; save it with 8 a channel")
        return Picture.of(ImageOps.exif_transpose(image), sha256(data).hexdigest())


def _too_many_bytes(count: int) -> str:
    return f"the file has {count / 2**20:.0f} MiB; allowed are {MAX_BYTES // 2**20}; save it smaller, or as JPEG"


@contextmanager
def _damage_as_request_error(what: str) -> Iterator[None]:
    try:
        yield
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise RequestError(f"{what} has too many pixels; save it smaller") from None
    except UnidentifiedImageError:
        raise RequestError(f"{what} is no PNG, JPEG or WebP; save it as one of these") from None
    except DAMAGE as problem:
        raise RequestError(f"{what} is damaged or cut short ({problem}); send it anew") from None
