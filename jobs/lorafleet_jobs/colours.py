"""A picture's colours as sRGB, which bases are trained on: by the ICC profile embedded in its file, else as they are.

Phones write Display P3, cameras Adobe RGB, print shops CMYK: the same numbers are other colours there. The intent is
perceptual, the one that profiles are made with photographs in mind for: a table of a printer's or scanner's profile
then keeps gradations that lie outside sRGB apart, and a profile by matrix and curves, as phones and cameras write, has
but one mapping whatever the intent. Knows profiles and pixels; refuses to know files.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""By a profile's own name of its colour space, the mode of the pictures that it describes."""


def _matrix_profile(name: bytes, primaries: Sequence[tuple[float, float]], curve: bytes) -> bytes:
    """An ICC profile of version 2 of an RGB space with the white D65: its primaries as x and y, and its curve."""
    colorants = _colorants(primaries).T

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ " + bytes(4) + _fixed(*values)

    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name.ljust(84 - len(name) % 4, b"\0"),
        b"wtpt": xyz(_D50), b"rXYZ": xyz(colorants[0]), b"gXYZ": xyz(colorants[1]), b"bXYZ": xyz(colorants[2]),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 1998, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _colorants(primaries: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """[3, 3]: XYZ of red, green and blue in columns, from D65 adapted to D50 by Bradford's matrix."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    to_xyz = columns * np.linalg.solve(columns, _D65)
    adapt = np.linalg.solve(_BRADFORD, np.diag((_BRADFORD @ _D50) / (_BRADFORD @ _D65)) @ _BRADFORD)
    return np.asarray(adapt @ to_xyz, dtype=np.float64)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


_D50, _D65 = (0.9642, 1.0, 0.8249), (0.95047, 1.0, 1.08883)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = b"para" + bytes(4) + struct.pack(">H2x", 3) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_ADOBE_CURVE = b"curv" + bytes(4) + struct.pack(">IH2x", 1, 2 * 256 + 51)
"""Gamma 2 + 51/256."""
ADOBE_RGB = _matrix_profile(b"Adobe RGB", ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), _ADOBE_CURVE)
_BY_PRIMARIES = {
    9: _matrix_profile(b"BT.2020", ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)), _SRGB_CURVE),
    12: _matrix_profile(b"Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), _SRGB_CURVE),
}
_HDR = {16: "PQ", 18: "HLG"}


def coded_profile(primaries: int, transfer: int) -> tuple[bytes | None, str]:
    """The profile of colours that are told by number (ITU-T H.273) and what is wrong with it; None for sRGB's own."""
    if transfer in _HDR:
        return None, f"is for HDR ({_HDR[transfer]})"
    return _BY_PRIMARIES.get(primaries), ""


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """An L, RGB or CMYK picture of 8 bits as RGB in sRGB, and what is wrong with its profile, "" if nothing is.

    With a profile that says nothing else than sRGB, to 1 of 255, the picture keeps its very bits; with one that cannot
    be used it is read as if it had none.
    """
    if not profile:
        return image.convert("RGB"), ""
    mode, problem = _mode_of(profile)
    if mode == "RGB" and image.mode == "L":  # editors leave an RGB profile in a grey picture
        image = image.convert("RGB")
    if mode != image.mode:
        problem = problem or f"is for {mode} pictures, and this one is {image.mode}"
        return image.convert("RGB"), problem
    transform, problem = _transform(profile, mode)
    if transform is None:
        return image.convert("RGB"), problem
    return ImageCms.applyTransform(image, transform) or image, ""


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """A picture in CIELAB, as editors save TIFFs, as RGB in sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB")) or image


@lru_cache(maxsize=16)
def _mode_of(profile: bytes) -> tuple[str, str]:
    try:
        space = ImageCms.getOpenProfile(BytesIO(profile)).profile.xcolor_space.strip()
    except ImageCms.PyCMSError as problem:
        return "", f"cannot be read ({problem})"
    return _SPACES.get(space, space), ""


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """From a profile's colours to sRGB; None if there is nothing to do, or nothing that can be done."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.getOpenProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.PERCEPTUAL,
        )
    except ImageCms.PyCMSError as problem:
        return None, f"cannot be used ({problem})"
    return (None if mode != "CMYK" and _changes_nothing(transform, mode) else transform), ""


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """By a grid of colours, greys among them: whether none is moved by more than rounding."""
    ramp = np.linspace(0, 255, 17).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(17, -1, 3) if mode == "RGB" else ramp[None]
    sample = Image.fromarray(grid)
    moved = np.asarray(ImageCms.applyTransform(sample, transform), dtype=np.int16)
    return int(np.abs(moved - np.asarray(sample.convert("RGB"), dtype=np.int16)).max()) <= 1
