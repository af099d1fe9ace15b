"""What the images of a request begin from: its picture and mask, at a size that fits the base. Refuses to know HTTP."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lorafleet.bases import Base
from lorafleet.errors import RequestError
from lorafleet_serve.api.edit_schemas import EditsRequest
from lorafleet_serve.api.schemas import ImagesRequest, parse_size
from lorafleet_serve.api.uploads import read_picture
from lorafleet_serve.engine.init_image import InitImage, Picture
from lorafleet_serve.engine.requests import check_size, nearest_size

WHOLE_STRENGTH, MASKED_STRENGTH = 0.6, 1.0
"""Where a request does not say: a picture keeps its composition; what a mask says is made from nothing."""


@dataclass(frozen=True)
class Begun:
    """A picture to begin from, which part of it is made anew, and how much; None where the request does not say."""

    image: Picture
    mask: Picture | None
    strength: float | None

    def fitted(self, base: Base, width: int | None, height: int | None) -> InitImage:
        """At the image's size. RequestError for a size out of bounds, or a mask of another size than the picture.

        Without a mask the transparent parts of the picture are one. Without width and height the size is that, of those
        that the base was trained on, which is most like the picture in shape.
        """
        own_width, own_height = base.resolution, base.resolution
        if width is None and height is None:
            own_width, own_height = nearest_size(base, *self.image.colours.size)
        size = (own_width if width is None else width, own_height if height is None else height)
        check_size(base, *size)
        mask = self.image if self.mask is None and self.image.opacity is not None else self.mask
        if mask is not None and mask.colours.size != self.image.colours.size:
            raise RequestError(
                f"the mask has {_pixels(mask)} and the picture {_pixels(self.image)}; save the mask as large"
            )
        strength = WHOLE_STRENGTH if mask is None else MASKED_STRENGTH
        return InitImage.of(self.image, size, strength if self.strength is None else self.strength, mask)


def _pixels(picture: Picture) -> str:
    width, height = picture.colours.size
    return f"{width} x {height} pixels"


class InitImages:
    """Decodes the pictures of requests on a thread of its own, one at a time: a large one takes 300 MB."""

    def __init__(self, base: Base) -> None:
        self._base, self._thread = base, ThreadPoolExecutor(1, "pictures")

    async def of(self, request: ImagesRequest) -> InitImage | None:
        """What a request's images begin from; None for noise alone. RequestError for a picture that cannot be used."""
        if not isinstance(request, EditsRequest):
            return None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, request)

    def _read(self, request: EditsRequest) -> InitImage:
        image = read_picture(request.image, "image")
        mask = None if request.mask is None else read_picture(request.mask, "mask")
        return Begun(image, mask, request.strength).fitted(self._base, *(parse_size(request.size) or (None, None)))
