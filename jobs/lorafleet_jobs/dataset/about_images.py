"""Findings about a subject's images: how many, how large, and which are alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorafleet_jobs.dataset.findings import Finding, finding, some
from lorafleet_jobs.dataset.open_image import OpenedImage

FEW, MANY = 4, 30
ODD_ASPECT = 2.0


def about_count(good: Sequence[OpenedImage]) -> Iterator[Finding]:
    """That there are few or many; that there are none is told elsewhere."""
    count = len({opened.looks.pixels for opened in good})
    if 0 < count < FEW:
        yield finding("D001", "warn", f"only {count} different image{'s' * (count > 1)}; 4 to 30 work best, add some")
    elif count > MANY:
        yield finding("D001", "info", f"{count} images; 4 to 30 are usually enough")


def about_pictures(good: Sequence[OpenedImage], resolution: int | None) -> Iterator[Finding]:
    """What stands out of each picture and each pair of them; `resolution` None: low resolution is not judged."""
    for opened in good:
        yield from opened.notes
        width, height = opened.looks.width, opened.looks.height
        if resolution is not None and min(width, height) < resolution / 2:
            message = f"{opened.file} is {width} x {height}; it will be enlarged to {resolution}, give a larger one"
            yield finding("D004", "warn", message, opened.file)
        if max(width, height) > ODD_ASPECT * min(width, height):
            message = f"{opened.file} is {width} x {height}; more than 2:1, the ends will be cut off, crop it yourself"
            yield finding("D009", "warn", message, opened.file)
    for place, one in enumerate(good):
        yield from _about_likeness(one, good[:place])
    if layers := [opened.file for opened in good if opened.see_through]:
        which = "1 picture is" if len(layers) == 1 else f"{len(layers)} pictures are"
        message = f"{which} transparent in places, where white is trained: {some(layers)}; "
        yield finding("D033", "info", f"{message}save on another colour if white is not meant", layers[0])


def _about_likeness(one: OpenedImage, before: Sequence[OpenedImage]) -> Iterator[Finding]:
    """That a picture is one of those before it, or nearly: the first of them is told, however many there are."""
    same = next((other for other in before if other.looks.pixels == one.looks.pixels), None)
    near = next((other for other in before if other.looks.is_near(one.looks)), None) if same is None else None
    if same is not None:
        yield finding("D005", "warn", f"{one.file} is the same picture as {same.file}; remove one", one.file)
    elif near is not None:
        message = f"{one.file} is nearly the same picture as {near.file}; different views teach more"
        yield finding("D006", "warn", message, one.file)
