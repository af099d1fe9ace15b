"""From a manifest's subjects to folders and image files. Knows names, globs, suffixes; refuses to judge contents."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from lorafleet.config import Manifest, SubjectSpec
from lorafleet_jobs.images import OTHER_SUFFIXES, SUFFIXES, load_image, sniff

__all__ = ["Subject", "find_images", "find_masks", "find_subjects", "load_image", "slug"]


@dataclass(frozen=True)
class Subject:
    """One subject and where its images should be; nothing has been looked at yet."""

    name: str
    """"" where no name can be made of the folder's."""
    folder: Path | None
    """Absolute; None for a glob that matches no folder."""
    written: str
    """The folder or pattern as the manifest has it."""
    class_noun: str | None
    instance_prompt: str | None
    caption_column: str


def find_subjects(manifest: Manifest, folder: Path) -> list[Subject]:
    """Every subject of a manifest that lies in `folder`, in its order; the folders of a glob are sorted by name."""
    return [subject for spec in manifest.subjects for subject in _expand(spec, folder)]


def find_images(folder: Path) -> list[Path]:
    """The files of a folder that are images or claim to be, sorted by name.

    An image's suffix makes a claim, whatever is inside; JPEG, PNG or WEBP content needs no suffix. Hidden files, other
    files, and `name-mask.png` beside an image called `name` are left out.
    """
    claims = _claims(folder)
    masks = _masks(claims)
    return [path for path in claims if path not in masks]


def find_masks(folder: Path) -> dict[str, Path]:
    """The `name-mask.png` files of a folder, by the stem `name` of the images beside which they lie."""
    return {path.stem.removesuffix("-mask"): path for path in _masks(_claims(folder))}


def _claims(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    return [path for path in files if path.suffix.lower() in SUFFIXES | OTHER_SUFFIXES or _is_image(path)]


def _masks(claims: Sequence[Path]) -> list[Path]:
    stems = {path.stem for path in claims}
    return [path for path in claims if path.stem.endswith("-mask") and path.stem.removesuffix("-mask") in stems]


def slug(text: str) -> str:
    """A name made of any text: lower case, `a-z 0-9 . _ -`, at most 64 characters; "" if nothing is left.

    >>> slug("Grandma's Cat (2)")
    'grandma-s-cat-2'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).lstrip("._-")[:64].rstrip("-")


def _expand(spec: SubjectSpec, folder: Path) -> list[Subject]:
    if spec.images is not None:
        return [_subject(spec, spec.name, _absolute(folder, spec.images), spec.images)]
    pattern = spec.glob or ""
    matches = sorted(glob(os.path.expanduser(pattern), root_dir=folder)) if "\0" not in pattern else []
    folders = [path for path in (_absolute(folder, match) for match in matches) if path.is_dir()]
    return [_subject(spec, None, home, pattern) for home in folders] or [_subject(spec, pattern, None, pattern)]


def _subject(spec: SubjectSpec, name: str | None, folder: Path | None, written: str) -> Subject:
    if name is None:
        name = slug(folder.name) if folder is not None else ""
    return Subject(name, folder, written, spec.class_noun, spec.instance_prompt, spec.caption_column)


def _absolute(folder: Path, written: str) -> Path:
    """Without following links, so that a subject is named after the link."""
    return Path(os.path.abspath(folder / os.path.expanduser(written)))


def _is_image(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK) and sniff(path) is not None
