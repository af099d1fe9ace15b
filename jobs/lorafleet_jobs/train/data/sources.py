"""Image files as a job was planned with them: each is verified against its planned hash whenever it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lorafleet.errors import DataError
from lorafleet_jobs.images import decode_image, measure_image, read_image_bytes
from lorafleet_jobs.jobspec import ImageSpec
from lorafleet_jobs.train.data.geometry import Size


@dataclass(frozen=True)
class File:
    """A picture's file, or its bytes where nothing is kept on disk."""

    data: Path | bytes
    sha256: str

    def read(self) -> bytes:
        """The bytes that the job was planned with. The message of a DataError begins after the file's name."""
        data = self.data if isinstance(self.data, bytes) else read_image_bytes(self.data)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DataError("is not the file that was planned with; submit the manifest again")
        return data

    def picture(self) -> Image.Image:
        """The picture, decoded by `decode_image`. Raises DataError."""
        try:
            return decode_image(self.read())
        except DataError as problem:
            raise self.named(problem) from None

    def named(self, problem: DataError) -> DataError:
        """The same error with the file's name in front of its message."""
        return type(problem)(f"{self.data if isinstance(self.data, Path) else 'a class image'} {problem}")


@dataclass(frozen=True)
class Source:
    """One image of a job: its file, size, caption and mask."""

    file: File
    size: Size
    caption: str | None = None
    mask: File | None = None

    @classmethod
    def open(cls, folder: Path, image: ImageSpec) -> Source:
        """Reads and verifies an image and its mask. Raises DataError if one is gone, damaged or changed."""
        mask = File(folder / image.mask.file, image.mask.sha256) if image.mask is not None else None
        if mask is not None:
            mask.picture()
        return cls.of_file(File(folder / image.file, image.sha256), image.caption, mask)

    @classmethod
    def open_all(cls, folder: Path, images: Sequence[ImageSpec]) -> list[Source]:
        """All images of a folder. Raises DataError."""
        return [cls.open(folder, image) for image in images]

    @classmethod
    def of_file(cls, file: File, caption: str | None = None, mask: File | None = None) -> Source:
        """An image by its file, verified, its size read from its header. Raises DataError."""
        try:
            return cls(file, Size(*measure_image(file.read())), caption, mask)
        except DataError as problem:
            raise file.named(problem) from None
