"""Findings about a subject's images: how many, how large, and which are alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from lorafleet_jobs.dataset.findings import Finding, finding
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
    for first, second in combinations(good, 2):
        if first.looks.pixels == second.looks.pixels:
            message = f"{second.file} is the same picture as {first.file}; remove one"
            yield finding("D005", "warn", message, second.file)
        elif first.looks.is_near(second.looks):
            message = f"{second.file} is nearly the same picture as {first.file}; different views teach more"
            yield finding("D006", "warn", message, second.file)
