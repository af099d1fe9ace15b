"""From a manifest's subjects to folders. Knows names, globs and paths; refuses to know what lies in a folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any

from lorafleet.config import Manifest, SubjectSpec
from lorafleet.config.places import KeyPath, Place
from lorafleet_jobs.dataset.listing import is_system
from lorafleet_jobs.dataset.paths import absolute, expand


@dataclass(frozen=True)
class Subject:
    """One subject and where its images should be; nothing has been looked at yet."""

    name: str
    """"" where no name can be made of the folder's."""
    folder: Path | None
    """Absolute; None for a glob that matches no folder."""
    written: str
    """The folder as the manifest has it, or as its glob found it; the pattern where it found none."""
    class_noun: str | None
    instance_prompt: str | None
    caption_column: str
    of_glob: bool = False
    beside: tuple[str, ...] = ()
    """Files that the glob matches beside folders; at the first of its subjects."""
    recipe: str | Mapping[str, Any] | None = None
    """What the subject's own recipe says: a preset's name, or keys."""
    entry: int = 0
    """Which of the manifest's `subjects` it is of."""
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)
    """Where its images, class, name and prompt are written, by the manifest's keys."""


PlaceOf = Callable[[KeyPath], Place]
PLACED = ("images", "class", "name", "instance_prompt", "recipe")


def find_subjects(manifest: Manifest, folder: Path, place_of: PlaceOf | None = None) -> list[Subject]:
    """Every subject of a manifest that lies in `folder`, in its order; the folders of a glob are sorted by name.

    `place_of` says where in the file a value of the manifest is written.
    """
    found = []
    for entry, spec in enumerate(manifest.subjects):
        keys = {key: "glob" if key == "images" and spec.images is None else key for key in PLACED}
        places = {key: place_of(("subjects", entry, at)) for key, at in keys.items()} if place_of is not None else {}
        found += [replace(one, recipe=spec.recipe, entry=entry, places=places) for one in _expand(spec, folder)]
    return found


def slug(text: str) -> str:
    """A name made of any text: lower case, `a-z 0-9 . _ -`, at most 64 characters; "" if nothing is left.

    >>> slug("Grandma's Cat (2)")
    'grandma-s-cat-2'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).lstrip("._-")[:64].rstrip("-")


def _expand(spec: SubjectSpec, folder: Path) -> list[Subject]:
    if spec.images is not None:
        home = absolute(folder, spec.images)  # links not followed: a subject is named after the link
        name = slug(home.name) if spec.name is None else spec.name
        return [Subject(name, home, spec.images, spec.class_noun, spec.instance_prompt, spec.caption_column)]
    pattern = spec.glob or ""
    matches = _matches(pattern, folder)
    folders = [match for match in matches if os.path.isdir(folder / match)]
    files = tuple(match for match in matches if match not in folders)

    def subject(name: str, home: Path | None, written: str, beside: tuple[str, ...]) -> Subject:
        return Subject(
            name, home, written, spec.class_noun, spec.instance_prompt, spec.caption_column, True, beside
        )  # fmt: skip

    if not folders:
        return [subject(pattern, None, pattern, files)]
    homes = [(match, Path(os.path.abspath(folder / match))) for match in folders]
    return [subject(slug(home.name), home, match, files if i == 0 else ()) for i, (match, home) in enumerate(homes)]


def _matches(pattern: str, folder: Path) -> list[str]:
    """What a pattern matches, as its literal spelling or with variables replaced, but for what systems leave."""
    if "\0" in pattern:
        return []
    matches = glob(os.path.expanduser(pattern), root_dir=folder) or glob(expand(pattern), root_dir=folder)
    return sorted(match for match in matches if not any(is_system(part) for part in Path(match).parts))
