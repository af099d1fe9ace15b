"""A picture's colours as sRGB, which bases are trained on: by the ICC profile embedded in its file, else as they are.

Phones write Display P3, cameras Adobe RGB, print shops CMYK: the same numbers are other colours there. The intent is
perceptual, the one that profiles are made with photographs in mind for: a table of a printer's or scanner's profile
then keeps gradations that lie outside sRGB apart, and a profile by matrix and curves, as phones and cameras write, has
but one mapping whatever the intent. Knows profiles and pixels; refuses to know files.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""By a profile's own name of its colour space, the mode of the pictures that it describes."""


def _adobe_rgb() -> bytes:
    """Adobe RGB (1998) as an ICC profile of version 2: primaries adapted to D50, and gamma 2 + 51/256."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(*values: float) -> bytes:
        return b"XYZ " + bytes(4) + fixed(*values)

    white = (0.9642, 1.0, 0.8249)
    gamma = b"curv" + bytes(4) + struct.pack(">IHxx", 1, 2 * 256 + 51)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 6) + b"Adobe\0" + bytes(78), b"wtpt": xyz(*white),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947), b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457), b"rTRC": gamma, b"gTRC": gamma, b"bTRC": gamma,
    }  # fmt: skip
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 1998, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*white)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


ADOBE_RGB = _adobe_rgb()


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
