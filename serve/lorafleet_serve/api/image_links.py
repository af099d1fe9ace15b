"""Images for which an answer gives links: kept in this process's memory for a bounded time, within bounded bytes.

A link's name is 256 random bits: whoever has it may fetch the image. Refuses to know HTTP.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MIB = 2**20
LINK_SECONDS = 600.0
LINK_BYTES = 256 * MIB


@dataclass(frozen=True)
class KeptImage:
    """An image file, and until when it is kept."""

    data: bytes
    media_type: str
    until: float


class ImageLinks:
    """Images by the names of their links. Of one thread."""

    def __init__(
        self,
        seconds: float = LINK_SECONDS,
        most_bytes: int = LINK_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.most_bytes = seconds, most_bytes
        self._clock = clock
        self._kept: OrderedDict[str, KeptImage] = OrderedDict()  # the oldest first
        self._bytes = 0

    @property
    def bytes_kept(self) -> int:
        """Of the images that are kept now."""
        return self._bytes

    def add(self, data: bytes, media_type: str) -> str:
        """Keeps an image and returns its name; the oldest are dropped where there is no more room."""
        self._drop_expired()
        while self._kept and self._bytes + len(data) > self.most_bytes:
            self._drop_oldest()
        name = secrets.token_hex(32)
        self._kept[name] = KeptImage(data, media_type, self._clock() + self.seconds)
        self._bytes += len(data)
        return name

    def get(self, name: str) -> KeptImage | None:
        """The image of that name, if it is still kept."""
        self._drop_expired()
        return self._kept.get(name)

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._kept.popitem(last=False)
        self._bytes -= len(oldest.data)
