"""All pictures of a sheet, by one step engine in this process, so that they share its batches; and the photos.

Knows the engine. Refuses to know how a sheet is laid out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

from lorafleet.errors import LorafleetError, first_line
from lorafleet.util.damaged import DAMAGE
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.requests import GeneratedImage, GenerateRequest
from lorafleet_serve.local import open_engine

MAX_ROWS = 8
PHOTOS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif"))
MASK = "-mask"
"""Ends the names of masks, which lie beside photos."""
log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with how many pictures are done, and of how many."""


@dataclass(frozen=True)
class Pictures:
    """What was made."""

    made: dict[GenerateRequest, GeneratedImage]
    failed: dict[GenerateRequest, str]
    """Why a picture could not be made: a scale that is too high, an adapter that does not fit."""


def make_pictures(requests: Sequence[GenerateRequest], base_name: str, progress: Progress) -> Pictures:
    """Makes every picture; on the GPU if there is one. All requests are checked before the base is loaded.

    A picture that fails leaves the others as they are. Raises RequestError, BaseModelError, and the first error if none
    can be made.
    """
    engine = open_engine(base_name, requests, MAX_ROWS)
    try:
        return run_all(engine, requests, progress)
    finally:
        engine.close(drain=False)


def run_all(engine: StepEngine, requests: Sequence[GenerateRequest], progress: Progress) -> Pictures:
    """All requests at once through an engine whose queue has room for them; the first error if none succeeds."""
    futures = {engine.submit(request): request for request in requests}
    made: dict[GenerateRequest, GeneratedImage] = {}
    failed: dict[GenerateRequest, LorafleetError] = {}
    for number, future in enumerate(as_completed(futures), 1):
        problem = future.exception()
        if problem is None:
            made[futures[future]] = future.result()
        elif isinstance(problem, LorafleetError):
            failed[futures[future]] = problem
        else:
            raise problem
        progress(number, len(futures))
    if failed and not made:
        raise next(iter(failed.values()))
    return Pictures(made, {request: first_line(problem) for request, problem in failed.items()})


def first_photo(folder: Path | None) -> Path | None:
    """The first picture of a folder by name; None if it is not on this machine, or has none."""
    try:
        files = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
    except PermissionError as problem:
        log.warning("%s: no photo is shown (%s)", folder, problem.strerror)
        return None
    pictures = (file for file in files if file.suffix.lower() in PHOTOS and not file.stem.endswith(MASK))
    return next((file for file in pictures if _open(file) is not None), None)


def read_photo(path: Path, side: int) -> Image.Image | None:
    """A photo turned upright and cut square about the middle, at most `side` pixels; None if it cannot be read."""
    image = _open(path)
    return None if image is None else ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)


def _open(path: Path) -> Image.Image | None:
    register_heif_opener()
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (*DAMAGE, Image.DecompressionBombError) as problem:
        log.warning("%s: not shown (%s)", path, first_line(problem))
        return None
