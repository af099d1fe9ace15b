"""One image file: whether it may be opened, and its pixels. Knows limits, orientation, depth and transparency.

`read_picture` is the one place that opens what a user gave: checks, training, masks and evaluation see the same pixels.

Only the formats of `image_formats` are decoded, by what a file holds and not by what it is called. Limits are checked
on the header, before any pixel is decoded: Pillow alone opens a 9 KiB PNG of 81 megapixels without a word.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lorafleet.errors import DataError
from lorafleet.util.damaged import DAMAGE
from lorafleet_jobs.colours import ADOBE_RGB, coded_profile, lab_to_srgb, to_srgb
from lorafleet_jobs.image_formats import READ, coded_colours, declared_sizes, format_of, what_else
from lorafleet_jobs.sharpness import sharpness

MAX_BYTES = 100 * 10**6
"""What 16 bits a channel without compression need at the pixels of most phones."""
MAX_PIXELS = 65 * 10**6
"""Phones of 64 megapixels and panoramas are below it."""
MAX_SIDE = 16384
_WARNINGS = threading.Lock()
"""Whoever changes what becomes of warnings: Python has that once for all threads of a process."""
_HASH_SIDE = 8
_OPAQUE = 255
_PNG_DEPTH = 24
"""Where a PNG says how many bits a channel has."""

_REDUCED, _DNG_VERSION = 254, 50706
"""Tags of a TIFF: the first page is but a preview; Adobe's raw format."""


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
    sharpness: float | None = None
    """As in `lorafleet_jobs.sharpness`; None where it is not judged."""

    def is_near(self, other: ImageFingerprint) -> bool:
        """At most 6 of the 64 gradient bits differ, and the colours by less than 12 of 255 in the mean."""
        bits = int((self.gradient != other.gradient).sum())
        return bits <= NEAR_BITS and float(np.abs(self.colours - other.colours).mean()) < 12


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
        raise DataError(f"is not a regular file; give a {READ}")
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
    others: str = ""
    """That there are more pictures in the file than the one that is read; continues the file's name."""
    see_through: bool = False
    """Whether some of it is transparent, and lies on white here."""
    of_camera: bool = False
    """Whether its EXIF names the camera that took it."""


def read_picture(data: bytes) -> Picture:
    """The picture in `data` as RGB in sRGB, by the rules of `load_image`. Raises DataError."""
    with _WARNINGS, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")  # Pillow warns of damage that it reads on behind
        with _opened(data) as image:
            frames = getattr(image, "n_frames", 1)
            image.load()
            _refuse_oversize(image.width, image.height)  # a HEIC may turn out another size than it said
            _scale_clear_colour(image, data)
            profile, problem = _profile(image, data)
            exif = image.getexif()
            colours, alpha = _apart(ImageOps.exif_transpose(image))
            picture, unfit = to_srgb(colours, profile)
    if problem := problem or unfit:
        problem = f"has a colour profile that {problem}; it is read as sRGB, save it as sRGB"
    damage = next((" ".join(str(one.message).split()) for one in heard if one.category is UserWarning), "")
    if damage:
        damage = f"is damaged beside its pixels ({damage}); if it lies on its side, save it anew"
    see_through = alpha is not None and alpha.getextrema() != (_OPAQUE, _OPAQUE)
    if alpha is not None:
        picture = _on_white(picture, alpha)
    of_camera = bool(exif.get(ExifTags.Base.Make) or exif.get(ExifTags.Base.Model))
    return Picture(picture, problem, damage, _others(image.format or "", frames), see_through, of_camera)


def decode_image(data: bytes) -> Image.Image:
    """The picture in `data` as RGB, by the rules of `load_image`. Raises DataError."""
    return read_picture(data).image


def measure_image(data: bytes) -> tuple[int, int]:
    """The height and width of the picture in `data` as `decode_image` gives it, by its header alone."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever there is to say was said when the picture was checked
        with _opened(data) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            turned = turned and image.format != "TIFF"  # whose size Pillow gives as it will be
            return (image.width, image.height) if turned else (image.height, image.width)


def look_at(image: Image.Image) -> ImageFingerprint:
    """What an RGB picture looks like."""
    digest = hashlib.sha256(f"{image.size}".encode())
    digest.update(image.tobytes())
    grey = image.convert("L")
    cells = np.asarray(grey.resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX), dtype=np.int16)
    gradient = cells[:, 1:] > cells[:, :-1]
    thumbnail = np.asarray(image.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.BOX), dtype=np.int16)
    return ImageFingerprint(*image.size, digest.hexdigest(), gradient, thumbnail, sharpness(grey))


def _refuse_oversize(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise OversizeError(f"is {width} x {height}; a side of at most {MAX_SIDE} pixels is read, save it smaller")
    if width * height > MAX_PIXELS:
        megapixels = f"{width * height / 1e6:.0f} megapixels ({width} x {height})"
        raise OversizeError(f"has {megapixels}; at most {MAX_PIXELS // 10**6} are read, save it smaller")


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture in `data`, its header read and within the limits; whatever is raised in it comes as a DataError."""
    format = format_of(data)  # noqa: A001
    if format is None:
        raise DataError(what_else(data))
    with _damage_as_data_error():
        for width, height in declared_sizes(data, format):
            _refuse_oversize(width, height)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(BytesIO(data), formats=(format,)) as image:
            _refuse_oversize(image.width, image.height)
            _refuse_raw(image)
            yield image


def _refuse_raw(image: Image.Image) -> None:
    """Of a TIFF whose name says nothing: cameras' raw formats are TIFFs that begin with a preview."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    if _DNG_VERSION in tags or tags.get(_REDUCED, 0) == 1:
        raise DataError("is a RAW file of a camera; export it as JPEG")
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise DataError("has 32 bits a channel, and nothing says which number is white; export it as JPEG")


def _others(format: str, frames: int) -> str:  # noqa: A002
    if frames < 2 or format in ("JPEG", "MPO"):  # whose others are previews, or the other eye's view
        return ""
    if format in ("TIFF", "HEIF"):
        return f"holds {frames} pictures; only the first is used, save others as files of their own"
    return f"is an animation of {frames} frames; the first is used, save others as pictures"


def _on_white(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    layer = colours.copy()
    layer.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _profile(image: Image.Image, data: bytes) -> tuple[bytes | None, str]:
    """The embedded profile, or that of the numbers by which a format says its colours, and what is wrong with it.

    Without any, Adobe RGB's if the camera says by EXIF alone that its colours are these.
    """
    embedded = image.info.get("icc_profile")
    if isinstance(embedded, bytes):
        return embedded, ""
    if (codes := coded_colours(data, image.format or "")) is not None:
        return coded_profile(*codes)
    interoperability = image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    return (ADOBE_RGB if interoperability == "R03" else None), ""  # DCF 2.0, option file


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
    if image.mode == "LAB":
        image = lab_to_srgb(image)
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
        raise DataError("is damaged or cut short (its header cannot be read); replace it or remove it") from None
    except PermissionError:
        raise DataError("may not be read; check its permissions") from None
    except DAMAGE as problem:
        raise DataError(f"is damaged or cut short ({problem}); replace it or remove it") from None
