"""One image file: whether it may be opened, and its pixels. Knows formats, limits, orientation, depth and transparency.

`read_picture` is the one place that opens what a user gave: checks, training, masks and evaluation see the same pixels.

Only JPEG, PNG and WEBP are decoded, by what a file holds and not by what it is called. Limits are checked on the
header, before any pixel is decoded: Pillow alone opens a 9 KiB PNG of 81 megapixels without a word.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lorafleet.errors import DataError
from lorafleet_jobs.colours import ADOBE_RGB, to_srgb

FORMATS = ("JPEG", "PNG", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}
OTHER_SUFFIXES = {
    ".heic",
    ".heif",
    ".avif",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".jp2",
    ".jxl",
    ".tga",
    ".psd",
    ".raw",
    ".dng",
}
MAX_BYTES = 25 * 10**6
MAX_PIXELS = 50 * 10**6
MAX_SIDE = 16384
_HASH_SIDE = 8
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has."""

# What Pillow's three decoders raise on damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip


class OversizeError(DataError):
    """The image is beyond the limits on bytes, pixels or sides."""


NEAR_BITS = 6
"""Of the 64 bits of a difference hash, how many may differ between pictures that are nearly the same."""


@dataclass(frozen=True)
class ImageFingerprint:
    """What a picture looks like, small enough to compare with every other."""

    width: int
    height: int
    pixels: str
    """sha256 of the size and the RGB bytes."""
    gradient: NDArray[np.bool_]
    """[8, 8]: whether each cell of an 8 x 9 thumbnail is darker than its right neighbour (a difference hash)."""
    colours: NDArray[np.int16]
    """[8, 8, 3]: an RGB thumbnail."""

    def is_near(self, other: ImageFingerprint) -> bool:
        """At most 6 of the 64 gradient bits differ, and the colours by less than 12 of 255 in the mean."""
        bits = int((self.gradient != other.gradient).sum())
        return bits <= NEAR_BITS and float(np.abs(self.colours - other.colours).mean()) < 12


def sniff(path: Path) -> str | None:
    """The format by a file's first bytes: "JPEG", "PNG", "WEBP" or None."""
    with path.open("rb") as stream:
        head = stream.read(12)
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    return "WEBP" if head[:4] == b"RIFF" and head[8:] == b"WEBP" else None


def load_image(path: Path) -> Image.Image:
    """The picture as RGB in sRGB: turned as its EXIF says, converted by its profile, transparency on white.

    16 bits are scaled to 8; the size stays. Raises DataError, with OversizeError for one beyond the limits.
    """
    try:
        return decode_image(read_image_bytes(path))
    except DataError as problem:
        raise type(problem)(f"{path} {problem}") from None


def read_image_bytes(path: Path) -> bytes:
    """A file's bytes; a DataError that continues the file's name, as `decode_image`'s do, if it has too many."""
    if not path.is_file():
        raise DataError("is not a regular file; give a JPEG, PNG or WEBP")
    with _damage_as_data_error():
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise OversizeError(f"has {size / 1e6:.1f} MB; at most {MAX_BYTES // 10**6} are read, save it smaller")
        return path.read_bytes()


@dataclass(frozen=True)
class Picture:
    """A picture, and what its file says beside the pixels and could not be followed."""

    image: Image.Image
    """RGB, in sRGB."""
    profile_problem: str = ""
    """What its colour profile cannot be used for; continues the file's name."""
    damage: str = ""
    """Beside the pixels; continues the file's name."""
    frames: int = 1
    """Of an animation, of which the first is read."""


def read_picture(data: bytes) -> Picture:
    """The picture in `data` as RGB in sRGB, by the rules of `load_image`. Raises DataError."""
    with _damage_as_data_error(), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")  # Pillow warns of damage that it reads on behind
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _refuse_oversize(image.width, image.height)
            image.load()
            frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1  # a JPEG's are previews
            _scale_clear_colour(image, data)
            profile = _profile(image)
            picture, problem = _as_rgb(ImageOps.exif_transpose(image), profile)
    if problem:
        problem = f"has a colour profile that {problem}; it is read as sRGB, save it as sRGB"
    damage = next((" ".join(str(one.message).split()) for one in heard if one.category is UserWarning), "")
    if damage:
        damage = f"is damaged beside its pixels ({damage}); if it lies on its side, save it anew"
    return Picture(picture, problem, damage, frames)


def decode_image(data: bytes) -> Image.Image:
    """The picture in `data` as RGB, by the rules of `load_image`. Raises DataError."""
    return read_picture(data).image


def measure_image(data: bytes) -> tuple[int, int]:
    """The height and width of the picture in `data` as `decode_image` gives it, by its header alone."""
    with _damage_as_data_error(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever there is to say was said when the picture was checked
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _refuse_oversize(image.width, image.height)
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)


def look_at(image: Image.Image) -> ImageFingerprint:
    """What an RGB picture looks like."""
    digest = hashlib.sha256(f"{image.size}".encode())
    digest.update(image.tobytes())
    grey = np.asarray(image.convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX), dtype=np.int16)
    thumbnail = np.asarray(image.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX), dtype=np.int16)
    return ImageFingerprint(image.width, image.height, digest.hexdigest(), grey[:, 1:] > grey[:, :-1], thumbnail)


def _refuse_oversize(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise OversizeError(f"is {width} x {height}; a side of at most {MAX_SIDE} pixels is read, save it smaller")
    if width * height > MAX_PIXELS:
        megapixels = f"{width * height / 1e6:.0f} megapixels ({width} x {height})"
        raise OversizeError(f"has {megapixels}; at most {MAX_PIXELS // 10**6} are read, save it smaller")


def _as_rgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """The picture as RGB on white, and what is wrong with its profile."""
    colours, alpha = _apart(image)
    colours, problem = to_srgb(colours, profile)
    if alpha is None:
        return colours, problem
    colours.putalpha(alpha)
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB"), problem


def _profile(image: Image.Image) -> bytes | None:
    """The embedded profile; without one Adobe RGB's, if the camera says by EXIF alone that its colours are these."""
    embedded = image.info.get("icc_profile")
    if isinstance(embedded, bytes):
        return embedded
    interoperability = image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    return ADOBE_RGB if interoperability == "R03" else None  # DCF 2.0, option file


def _apart(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours as L, RGB or CMYK of 8 bits, and the opacity if there is any transparency."""
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion clips instead of scaling
        levels = np.asarray(image).clip(0, 65535)
        clear = image.info.get("transparency")
        alpha = Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)) if clear is not None else None
        return Image.fromarray((levels >> 8).astype(np.uint8)), alpha
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return image.getchannel("L") if image.mode == "LA" else layer.convert("RGB"), layer.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _scale_clear_colour(image: Image.Image, data: bytes) -> None:
    """Brings a PNG's transparent colour, written at the file's own depth, to the 8 bits that Pillow reads it at."""
    clear = image.info.get("transparency")
    if image.format != "PNG" or len(data) <= _PNG_DEPTH:
        return
    depth = data[_PNG_DEPTH]
    if isinstance(clear, tuple) and depth == 16:
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    elif isinstance(clear, int) and image.mode == "L" and depth < 8:
        image.info["transparency"] = clear * 255 // (2**depth - 1)


@contextmanager
def _damage_as_data_error() -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as problem:
        raise OversizeError(f"is too large: {problem}; save it smaller") from None
    except UnidentifiedImageError:
        raise DataError("does not hold a JPEG, PNG or WEBP, whatever its name says; replace it or remove it") from None
    except PermissionError:
        raise DataError("may not be read; check its permissions") from None
    except _DAMAGE as problem:
        raise DataError(f"is damaged or cut short ({problem}); replace it or remove it") from None
