"""The photos that a job learns from as one small picture, for whoever judges what it learned."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.data.sources import File

SIDE = 128
"""Pixels of a photo's side."""
COLUMNS, ROWS = 4, 2
GAP = 4


def contact_strip(spec: JobSpec) -> Image.Image:
    """The first photos of a job, eight at most and four in a row, each cut square about its middle.

    Raises DataError if one is gone, damaged or changed.
    """
    shown = spec.images[: COLUMNS * ROWS]
    columns, rows = min(COLUMNS, len(shown)), -(-len(shown) // COLUMNS)
    strip = Image.new("RGB", (columns * (SIDE + GAP) - GAP, rows * (SIDE + GAP) - GAP), "white")
    for number, image in enumerate(shown):
        photo = File(Path(spec.folder) / image.file, image.sha256).picture()
        place = (number % COLUMNS * (SIDE + GAP), number // COLUMNS * (SIDE + GAP))
        strip.paste(ImageOps.fit(photo, (SIDE, SIDE), Image.Resampling.LANCZOS), place)
    return strip
