"""A first manifest from folders of photos: a subject for each folder, its class guessed from the folder's name.

Knows folders and how YAML spells text; refuses to know what is in the pictures.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet.errors import DataError
from lorafleet_jobs.dataset.listing import count_images, count_raw, is_system
from lorafleet_jobs.dataset.subjects import slug

UNKNOWN_CLASS = "?"
"""The class of a subject whose folder does not say it; `check` asks for it."""
NOUNS = """
    armchair backpack bag bear bike bird boat book boot bottle bowl box boy building cake camera car cartoon castle
    cat chair child clock coat couch cow cup dog doll dress drawing duck face fish flower fox girl glasses guitar
    hat horse house illustration jacket kitten lamp landscape logo man mug necklace painting parrot person phone
    plant poster product puppy purse rabbit ring robot sculpture shirt shoe sketch sneaker sofa statue style
    sunglasses table teapot teddy toy tree vase watch woman
"""
CLASSES = frozenset(NOUNS.split())
"""Nouns that are taken for the class where a folder's name ends with one."""
HEAD = """\
# yaml-language-server: $schema={schema}
# What is trained, on which base, and how. Every key: docs/manifest.md. Next: lorafleet check {file}
apiVersion: lorafleet/v1alpha1
name: {name}
base: toy-playground     # to try it out on a CPU; sdxl, playground-v2.5 or a diffusers folder for real pictures
recipe:
  preset: object         # or face, style, character, pivotal, dora, fast
  # rank: 16             # any key here wins over the preset's; lorafleet plan shows what is used
# resources: {{lanes: 2}}  # lanes train side by side, each with a pack of jobs
# validation: {{prompts: ["a photo of TOK dog on the beach"], every: 100}}
subjects:                # an adapter for each; TOK stands for what is learned
"""


@dataclass(frozen=True)
class Found:
    """A folder that can be a subject."""

    folder: Path
    images: int


def find_folders(photos: Path) -> tuple[list[Found], list[Path]]:
    """The folders below `photos` that hold images, sorted, or `photos` itself; and those without.

    Raises DataError if there is no image in either.
    """
    if not photos.is_dir():
        raise DataError(f"there is no folder {str(photos)!r}; give the folder that holds the photos' folders")
    inner = sorted((each for each in photos.iterdir() if each.is_dir() and not is_system(each.name)), key=_natural)
    counted = [Found(each, count_images(each)) for each in inner if not each.name.startswith(".")]
    found = [each for each in counted if each.images]
    if not found and (own := count_images(photos)):
        return [Found(photos, own)], []
    if not found:
        raise DataError(f"no image in {str(photos)!r} or in the folders in it; give the folder that holds the photos")
    return found, [each.folder for each in counted if not each.images]


def starter_manifest(photos: Path, manifest: Path, schema: str) -> str:
    """The text of a manifest at `manifest` for the photos below a folder; `schema` is the JSON schema's address.

    Raises DataError if there are no photos.
    """
    found, empty = find_folders(photos)
    here = manifest.absolute().parent
    name = slug(photos.absolute().name) or "photos"
    head = HEAD.format(schema=schema, file=manifest.name, name=plain(name))
    return head + "".join(f"{line}\n" for line in (*_subjects(found, here), *_left_out(empty)))


def guessed_class(folder: str) -> str:
    """The class that the last known noun of a folder's name says, or "?".

    >>> guessed_class("10_sks dog"), guessed_class("rex-the-Dog"), guessed_class("IMG_2024")
    ('dog', 'dog', '?')
    """
    words = re.findall(r"[a-z]+", folder.lower())
    return next((word for word in reversed(words) if word in CLASSES), UNKNOWN_CLASS)


def plain(text: str) -> str:
    """Text as YAML: bare where that can mean nothing else, so not for `no`, `1e-4`, `2024`; else in double quotes."""
    bare = re.fullmatch(r"[A-Za-z][A-Za-z0-9._/-]*", text) and text.lower() not in {
        "y", "n", "yes", "no", "on", "off", "true", "false", "null"
    }  # fmt: skip
    return text if bare else json.dumps(text, ensure_ascii=False)


def _subjects(found: Sequence[Found], here: Path) -> Iterator[str]:
    taken: set[str] = set()
    for each in found:
        folder = Path(os.path.relpath(each.folder, here)).as_posix()
        own = slug(each.folder.name)
        name = own or "subject"
        while name in taken:
            name = f"{own or 'subject'}-{len(taken) + 1}"
        taken.add(name)
        named = "" if name == own else f"name: {plain(name)}, "
        kind = guessed_class(each.folder.name)
        line = f"  - {{{named}images: {plain(folder)}, class: {plain(kind)}}}"
        images = f"{each.images} image" + "s" * (each.images != 1)
        yield f"{line}  # {images}" + ("; what is it? class: dog, mug, person ..." if kind == UNKNOWN_CLASS else "")


def _left_out(empty: Sequence[Path]) -> Iterator[str]:
    for folder in empty:
        raw = count_raw(folder)
        files = f"only {raw} RAW file{'s' * (raw != 1)} of a camera; export them as JPEG" if raw else "no image"
        yield f"  # {json.dumps(folder.name, ensure_ascii=False)} holds {files}"


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts `dog2` before `dog10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
