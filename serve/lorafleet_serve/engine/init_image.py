"""The picture that an image begins from, at the image's own size, and which part of it is made anew.

Knows Pillow's images. Refuses to know files and their formats, tensors and bases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated

from PIL import Image, ImageOps
from pydantic import Field

Strength = Annotated[float, Field(gt=0, le=1)]
"""The part of the steps that is taken: at 1 all, from noise in which little or nothing of the picture is left."""
HALF = 128
"""The least grey of a mask that counts as white."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture: its colours as RGB, its opacity if any of it is transparent, and the digest of its file."""

    colours: Image.Image
    opacity: Image.Image | None
    sha256: str

    @classmethod
    def of(cls, image: Image.Image, digest: str | None = None) -> Picture:
        """Of an image in memory, whose digest by default is that of its pixels; what is transparent becomes white."""
        digest = digest or sha256(image.tobytes()).hexdigest()
        if not image.has_transparency_data:
            return cls(image.convert("RGB"), None, digest)
        layer = image.convert("RGBA")
        opacity = layer.getchannel("A")
        if opacity.getextrema() == (255, 255):
            return cls(layer.convert("RGB"), None, digest)
        white = Image.new("RGBA", image.size, "white")
        return cls(Image.alpha_composite(white, layer).convert("RGB"), opacity, digest)


@dataclass(frozen=True)
class InitImage:
    """What an image begins from, scaled to its size."""

    size: tuple[int, int]
    """Width and height in pixels."""
    rgb: bytes = field(repr=False)
    """Three bytes a pixel, row after row."""
    strength: Strength
    sha256: str
    """Of the file that the picture was in."""
    mask: bytes | None = field(default=None, repr=False)
    """One byte a pixel: 255 where the picture is made anew, 0 where it is kept; without a mask all of it is."""
    mask_sha256: str | None = None

    @classmethod
    def of(cls, picture: Picture, size: tuple[int, int], strength: float, mask: Picture | None = None) -> InitImage:
        """A picture that is scaled until it covers `size`, and cropped evenly where it is larger; the mask likewise.

        Where the mask is transparent or, if none of it is, white, the picture is made anew.
        """
        rgb = _fitted(picture.colours, size).tobytes()
        if mask is None:
            return cls(size, rgb, strength, picture.sha256)
        wanted = mask.colours.convert("L") if mask.opacity is None else ImageOps.invert(mask.opacity)
        changes = _fitted(wanted, size).point([0] * HALF + [255] * (256 - HALF))
        return cls(size, rgb, strength, picture.sha256, changes.tobytes(), mask.sha256)


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
