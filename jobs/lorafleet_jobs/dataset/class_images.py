"""Folders of class images that recipes name for prior preservation: what is in them, and what is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet.config import Recipe
from lorafleet_jobs.dataset.findings import Finding, finding, some
from lorafleet_jobs.dataset.listing import Listing, list_folder
from lorafleet_jobs.dataset.open_image import OpenedImage, is_utf8, open_image
from lorafleet_jobs.dataset.paths import absolute
from lorafleet_jobs.image_formats import READ
from lorafleet_jobs.jobspec import CLASS_IMAGES_CARD, ClassImages, ImageSpec


@dataclass(frozen=True)
class ClassFolder:
    """A folder as a recipe names it."""

    written: str
    images: ClassImages | None
    """None if none can be used."""
    findings: tuple[Finding, ...]
    made_by: str = ""
    """The fingerprint of the base that made the images, if the folder says that one did."""

    @classmethod
    def read(cls, written: str, home: Path) -> ClassFolder:
        """Opens every image of the folder `written`, relative to `home`; those that are damaged are left out."""
        folder = absolute(home, written)
        if not is_utf8(str(folder)) or not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
            message = f"prior.images {written!r} is no folder that can be opened; paths are relative to the manifest"
            return cls(written, None, (_finding("error", message),))
        listing = list_folder(folder)
        seen = [open_image(folder, file) for file in listing.images]
        good = tuple(ImageSpec(file=o.file, caption=None, sha256=o.sha256) for o in seen if isinstance(o, OpenedImage))
        findings = [
            _finding("warn", f"prior.images {written!r}: {f.message}; it is left out")
            for f in seen
            if isinstance(f, Finding)
        ]
        findings += [
            one.with_changes(message=f"prior.images {written!r}: {one.message}")
            for o in seen
            if isinstance(o, OpenedImage)
            for one in o.notes
        ]
        if not good:
            message = f"no readable image in prior.images {written!r}; put {READ} files of the class there"
            findings.append(_finding("error", message))
        findings += _left_out(written, listing)
        images = ClassImages(folder=str(folder), images=good) if good else None
        return cls(written, images, tuple(findings), _made_by(folder))


def read_class_folders(recipes: Sequence[Recipe], home: Path) -> list[ClassFolder]:
    """Each folder that the recipes name, once; relative paths start at `home`."""
    return [ClassFolder.read(written, home) for written in dict.fromkeys(_named(recipes))]


def images_of(recipe: Recipe, folders: Iterable[ClassFolder]) -> ClassImages | None:
    """The class images of one recipe; None if it names no folder."""
    written = recipe.prior.images if recipe.prior is not None else None
    return next((folder.images for folder in folders if folder.written == written), None)


def _named(recipes: Sequence[Recipe]) -> list[str]:
    return [r.prior.images for r in recipes if r.prior is not None and r.prior.images is not None]


def _made_by(folder: Path) -> str:
    try:
        return str(json.loads((folder / CLASS_IMAGES_CARD).read_bytes())["base"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""  # somebody's own pictures


def _left_out(written: str, listing: Listing) -> list[Finding]:
    """What in the folder is no class image, by name."""
    kinds = (listing.raws, listing.videos, listing.leftovers, listing.hidden, listing.others, listing.folders)
    rest = [*(path for kind in kinds for path in kind), *listing.masks.values()]
    if not rest:
        return []
    names = some([path.name for path in sorted(rest)])
    return [finding("D028", "info", f"prior.images {written!r}: left out as no images of the class: {names}")]


def _finding(level: str, message: str) -> Finding:
    return Finding.model_validate({"id": "D026", "level": level, "message": message})
