"""From subjects to captions in files beside their photographs. Refuses to know manifests and models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lorafleet.errors import CaptionerError, DataError
from lorafleet.util.files import write_whole
from lorafleet_jobs.captioning.captioner import NamedCaptioner
from lorafleet_jobs.captioning.placing import placed
from lorafleet_jobs.images import load_image

BATCH = 8
"""Photographs that are captioned at once."""
SEEN_SIDE = 1024
"""Captioners look at less; a batch of photographs from telephones would not fit in memory."""


@dataclass(frozen=True)
class Photograph:
    """A photograph that a caption is wanted for."""

    subject: str
    path: Path
    target: Path
    """The caption's file."""
    noun: str | None
    prompt: str
    """The subject's instance prompt; "" if what comes before every caption names the subject already."""


@dataclass(frozen=True)
class Captioned:
    """A photograph and its caption."""

    photograph: Photograph
    caption: str


Told = Callable[[int, int], None]


def caption_file(image: str, images: Sequence[str]) -> str:
    """`a.txt` for `a.jpg`, or `a.jpg.txt` where another image has its name but for the ending."""
    stem = Path(image).stem
    alone = sum(Path(other).stem.casefold() == stem.casefold() for other in images) == 1
    return f"{stem}.txt" if alone else f"{image}.txt"


def caption_all(photographs: Sequence[Photograph], by: NamedCaptioner, told: Told) -> Iterator[Captioned]:
    """Captions in order, as they are made; `told` hears how many of how many there are.

    Raises CaptionerError if the captioner does not give one text for each picture.
    """
    told(0, len(photographs))
    for start in range(0, len(photographs), BATCH):
        batch = photographs[start : start + BATCH]
        texts = by.captioner.caption([_picture(one.path) for one in batch])
        if len(texts) != len(batch) or not all(isinstance(text, str) for text in texts):
            raise CaptionerError(
                f"captioner {by.name!r} gave {len(texts)} texts for {len(batch)} pictures; it must give one for each"
            )
        for one, text in zip(batch, texts, strict=True):
            yield Captioned(one, placed(text, one.noun, one.prompt) if one.prompt else " ".join(text.split()))
        told(start + len(batch), len(photographs))


def write_caption(one: Captioned) -> None:
    """Writes a caption to its file, whole. Raises DataError."""
    try:
        write_whole(one.photograph.target, (one.caption + "\n").encode())
    except OSError as problem:
        raise DataError(
            f"{one.photograph.target} cannot be written: {problem.strerror}; check its permissions"
        ) from None


def _picture(path: Path) -> Image.Image:
    picture = load_image(path)
    picture.thumbnail((SEEN_SIDE, SEEN_SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture
