"""A sheet from its plan to its two files, and to the runs of the submissions it shows."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lorafleet.util.files import write_whole
from lorafleet_serve.sheet.cells import Cell, Sheet, sampling
from lorafleet_serve.sheet.grid_png import sheet_png
from lorafleet_serve.sheet.making import Pictures, Progress, make_pictures, read_photo
from lorafleet_serve.sheet.page import render

if TYPE_CHECKING:
    from lorafleet.tracking.submissions import SubmissionRecords

FOLDER = "sheets"
LEAST_PHOTO = 256
"""Pixels of a side that a photo is shown with at least, if it has as many."""


@dataclass(frozen=True)
class Written:
    """A finished sheet."""

    page: Path
    png: Path
    pictures: int
    failed: tuple[str, ...]
    """Why pictures are missing, each reason once."""


def produce(sheet: Sheet, out: Path, progress: Progress) -> Written:
    """Makes the pictures and writes `out`.html and `out`.png, each whole or not at all.

    Raises as `make_pictures` does, and OSError.
    """
    pictures = make_pictures(sheet.requests, sheet.base, progress)
    side = max(made.image.width for made in pictures.made.values())
    paths = dict.fromkeys(cell.photo for cell in sheet.cells if cell.photo is not None)
    read = {path: read_photo(path, max(side, LEAST_PHOTO)) for path in paths}
    photos = {path: image for path, image in read.items() if image is not None}
    under = _under(sheet, pictures)
    page, png = (out.with_name(f"{out.name}.{ending}") for ending in ("html", "png"))
    write_whole(page, render(sheet, pictures, photos, under, out.name).encode(), synced=False)
    stream = io.BytesIO()
    shown = sheet_png(sheet.title, under, sheet.blocks, lambda cell: _shown(cell, pictures, photos), side)
    shown.save(stream, "PNG", optimize=True)
    write_whole(png, stream.getvalue(), synced=False)
    return Written(page, png, len(pictures.made), tuple(dict.fromkeys(pictures.failed.values())))


def keep(written: Written, sheet: Sheet, records: SubmissionRecords) -> list[str]:
    """Puts both files under the run of each submission; returns the runs. Raises UnreachableError."""
    runs = [submission.run_id for submission in sheet.found.submissions]
    for run in runs:
        records.keep(run, [written.page, written.png], FOLDER)
    return runs


def _shown(cell: Cell, pictures: Pictures, photos: dict[Path, Image.Image]) -> Image.Image | str:
    if cell.photo is not None:
        return photos.get(cell.photo, "no picture")
    assert cell.request is not None  # a cell is a photo or a picture
    made = pictures.made.get(cell.request)
    return pictures.failed[cell.request] if made is None else made.image


def _under(sheet: Sheet, pictures: Pictures) -> str:
    """What all pictures have in common, in a line."""
    all_settings = [made.settings for made in pictures.made.values()]
    common = [
        {sampling(one) for one in all_settings},
        {f"guidance {one.guidance_scale:g}" for one in all_settings},
        {f"seed {one.request.seed}" for one in all_settings},
    ]
    count = len(sheet.found.candidates)
    return ", ".join(
        [
            sheet.base,
            *(next(iter(said)) for said in common if len(said) == 1),
            f"{count} adapter{'s' * (count > 1)}",
            f"{len(pictures.made)} pictures",
        ]
    )
