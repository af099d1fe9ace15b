"""How a picture is cut for training, and SDXL's record of it. Knows sizes and pixels; refuses to know files and models.

Every way in which a picture may be cut is a `View`, and there are few, so that the latents of all can be cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

OFFSETS = 9
"""Offsets along each axis that a random crop chooses from: enough to vary, few enough to cache."""


class Size(NamedTuple):
    """Pixels, height first, as in SDXL's time ids."""

    height: int
    width: int


@dataclass(frozen=True)
class View:
    """One way to cut a picture: mirrored or not, then resized, then cut to a window.

    Mirroring comes first, so that `left` is the one the network sees.
    """

    mirrored: bool
    resized: Size
    top: int
    left: int
    window: Size

    def time_ids(self, original: Size) -> Tensor:
        """SDXL's size and crop conditioning, [1, 6] (Podell et al. 2023, section 2.2).

        Original height and width, crop top and left, target height and width. The original size is after EXIF rotation
        and before resizing.
        """
        return torch.tensor([[*original, self.top, self.left, *self.window]], dtype=torch.float32)


def views(original: Size, window: Size, flip: bool, crop: Literal["center", "random"]) -> list[View]:
    """Every view of a picture that is resized to just cover the window; a use of the picture draws one of them."""
    factor = max(window.height / original.height, window.width / original.width)
    resized = Size(*(max(w, round(o * factor)) for o, w in zip(original, window, strict=True)))
    tops, lefts = (_offsets(r - w, crop) for r, w in zip(resized, window, strict=True))
    return [
        View(mirrored, resized, top, left, window)
        for mirrored in ((False, True) if flip else (False,))
        for top in tops
        for left in lefts
    ]


def pixels(picture: Image.Image, view: View) -> Tensor:
    """The view of an RGB picture, [1, 3, h, w] in [-1, 1]."""
    cut = _cut(picture, view, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(cut, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def latent_mask(mask: Image.Image, view: View, factor: int) -> Tensor:
    """The same view of a greyscale mask, averaged over each latent pixel: [1, 1, h / factor, w / factor] in [0, 1].

    A mask may be smaller or larger than its picture: it is resized to what the picture is resized to.
    """
    cut = np.asarray(_cut(mask, view, Image.Resampling.BOX), dtype=np.float32) / 255
    return F.avg_pool2d(torch.from_numpy(cut)[None, None], factor)


def _cut(picture: Image.Image, view: View, resampling: Image.Resampling) -> Image.Image:
    mirrored = ImageOps.mirror(picture) if view.mirrored else picture
    resized = mirrored.resize((view.resized.width, view.resized.height), resampling)
    return resized.crop((view.left, view.top, view.left + view.window.width, view.top + view.window.height))


def _offsets(slack: int, crop: Literal["center", "random"]) -> list[int]:
    if crop == "center" or slack == 0:
        return [slack // 2]
    count = min(OFFSETS, slack + 1)
    return [round(i * slack / (count - 1)) for i in range(count)]
