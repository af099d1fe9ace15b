"""What lies in a folder of pictures, by name and first bytes: images, masks, and everything else.

Nothing is passed over but what an operating system leaves everywhere by itself. Refuses to judge contents.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lorafleet_jobs.image_formats import OTHER_SUFFIXES, RAW_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES, sniff

SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".directory", "icon\r"})
SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)  # fmt: skip
LEFTOVERS = frozenset(
    {".bak", ".backup", ".old", ".orig", ".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".temp"}
)  # fmt: skip
"""Endings of backups and unfinished downloads."""


@dataclass(frozen=True)
class Listing:
    """A folder's files and folders, sorted by name, those of the system aside."""

    folder: Path
    images: tuple[Path, ...]
    """Of a format that is read by content, or any image by name: a suffix makes a claim, whatever is inside."""
    raws: tuple[Path, ...]
    """What cameras write before a picture is made of it, by name."""
    videos: tuple[Path, ...]
    """By name, those of Live Photos among them."""
    others: tuple[Path, ...]
    """Captions, and whatever else."""
    leftovers: tuple[Path, ...]
    """Backups and unfinished copies: pictures perhaps, but not meant."""
    hidden: tuple[Path, ...]
    folders: tuple[Path, ...]
    masks: Mapping[str, Path]
    """`name-mask.png` beside an image called `name`, by that name."""


def list_folder(folder: Path) -> Listing:
    """Every entry of a folder, in one kind each. Raises OSError if it cannot be opened."""
    entries = sorted(path for path in folder.iterdir() if not is_system(path.name))
    hidden = [path for path in entries if path.name.startswith(".")]
    seen = [path for path in entries if not path.name.startswith(".")]
    folders = [path for path in seen if path.is_dir()]
    files = [path for path in seen if not path.is_dir()]
    leftovers = [path for path in files if is_leftover(path.name)]
    raws = [path for path in files if path.suffix.lower() in RAW_SUFFIXES]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    told = {*leftovers, *raws, *videos}
    claims = [path for path in files if path not in told and _claims(path)]
    stems = {path.stem for path in claims}
    mask_like = {path for path in claims if path.stem.endswith("-mask") and path.stem.removesuffix("-mask") in stems}
    masks = _by_image(mask_like)
    images = [path for path in claims if path not in mask_like]
    taken = {*told, *images, *masks.values()}
    others = [path for path in files if path not in taken]
    return Listing(
        folder, tuple(images), tuple(raws), tuple(videos), tuple(others), tuple(leftovers), tuple(hidden),
        tuple(folders), masks,
    )  # fmt: skip


def is_system(name: str) -> bool:
    """Whether an operating system or a file server leaves files or folders of this name by itself."""
    return name.startswith("._") or name.lower() in SYSTEM_FILES | SYSTEM_FOLDERS


def is_leftover(name: str) -> bool:
    """Whether a file's name is one of a backup or of an unfinished copy."""
    return name.endswith(("~", "_original")) or name.startswith("~$") or Path(name).suffix.lower() in LEFTOVERS


def count_images(folder: Path) -> int:
    """How many files of a folder are images by their suffix; 0 if it cannot be opened."""
    try:
        return sum(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in folder.iterdir())
    except OSError:
        return 0


def count_raw(folder: Path) -> int:
    """How many files of a folder are a camera's RAW files by their suffix; 0 if it cannot be opened."""
    try:
        return sum(path.suffix.lower() in RAW_SUFFIXES for path in folder.iterdir())
    except OSError:
        return 0


def _claims(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES | OTHER_SUFFIXES:
        return True
    return path.is_file() and os.access(path, os.R_OK) and sniff(path) is not None


def _by_image(mask_like: Iterable[Path]) -> dict[str, Path]:
    """One of each name, PNG before others, whose edges are blurred by compression."""
    masks: dict[str, Path] = {}
    for path in sorted(mask_like, key=lambda path: (path.suffix.lower() != ".png", path)):
        masks.setdefault(path.stem.removesuffix("-mask"), path)
    return masks
