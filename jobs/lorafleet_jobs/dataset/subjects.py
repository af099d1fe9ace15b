"""From a manifest's subjects to folders. Knows names, globs and tables; refuses to know what lies in a folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import translate
from glob import glob
from pathlib import Path
from typing import Any

from lorafleet.config import Manifest, SubjectSpec
from lorafleet.config.manifest import NAME_PART
from lorafleet.config.places import KeyPath, Place, Problems
from lorafleet_jobs.dataset.listing import is_system
from lorafleet_jobs.dataset.paths import absolute, expand
from lorafleet_jobs.dataset.subject_tables import read_subject_table


@dataclass(frozen=True)
class Subject:
    """One subject and where its images should be; nothing has been looked at yet."""

    name: str
    """"" where no name can be made of the folder's."""
    folder: Path | None
    """Absolute; None for a glob that matches no folder. A zip file, or what is no path, until it is fetched."""
    written: str
    """The folder as the manifest has it, or as its glob found it; the pattern where it found none."""
    class_noun: str | None
    instance_prompt: str | None
    caption_column: str
    of_glob: bool = False
    beside: tuple[str, ...] = ()
    """Files that the glob matches beside folders; at the first of its subjects."""
    unfit: tuple[str, ...] = ()
    """Folders whose names lack what the glob takes from them; at the first of its subjects."""
    preset: str | None = None
    """What its row of a table says."""
    recipe: str | Mapping[str, Any] | None = None
    """What the subject's own recipe says: a preset's name, or keys."""
    fetched: bool = False
    """Whether its folder holds what was fetched or unpacked, and is not the user's."""
    out_of_reach: str = ""
    """Why its photographs could not be fetched or unpacked."""
    entry: int = 0
    """Which of the manifest's `subjects` it is of."""
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)
    """Where its images, class, name and prompt are written, by the manifest's keys."""


PlaceOf = Callable[[KeyPath], Place]
PLACED = ("images", "class", "name", "instance_prompt", "recipe")


def find_subjects(
    manifest: Manifest, folder: Path, place_of: PlaceOf | None = None, problems: Problems | None = None
) -> list[Subject]:
    """Every subject of a manifest that lies in `folder`, in its order; the folders of a glob are sorted by name.

    `place_of` says where in the file a value of the manifest is written. What is wrong with a table goes to `problems`,
    or raises ManifestError if there is none.
    """
    gathered, found = Problems() if problems is None else problems, list[Subject]()
    for entry, spec in enumerate(manifest.subjects):
        source = "glob" if spec.glob is not None else "from" if spec.table is not None else "images"
        keys = {key: source if key == "images" else key for key in PLACED}
        places = {key: place_of(("subjects", entry, at)) for key, at in keys.items()} if place_of is not None else {}
        if spec.table is None:
            own = _of_glob(spec, folder) if spec.glob is not None else [_of_folder(spec, folder)]
        else:
            named_at = places.get("images", Place("the manifest"))
            own = list(_of_table(spec, folder, named_at, gathered))
        found += [replace(one, recipe=spec.recipe, entry=entry, places={**places, **one.places}) for one in own]
    if problems is None:
        gathered.refuse()
    return found


def slug(text: str) -> str:
    """A name made of any text: lower case, `a-z 0-9 . _ -`, at most 64 characters; "" if nothing is left.

    >>> slug("Grandma's Cat (2)")
    'grandma-s-cat-2'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).lstrip("._-")[:64].rstrip("-")


def _of_folder(spec: SubjectSpec, folder: Path) -> Subject:
    images = spec.images or ""
    home = absolute(folder, images)  # links not followed: a subject is named after the link
    name = slug(_named(home)) if spec.name is None else spec.name
    return Subject(name, home, images, spec.class_noun, spec.instance_prompt, spec.caption_column)


def _named(home: Path) -> str:
    """What a folder or a zip file is called."""
    return home.stem if home.suffix.lower() == ".zip" else home.name


def _is_zip(pattern: str, match: str) -> bool:
    """Whether a glob asks for zip files, each a subject."""
    return pattern.lower().endswith(".zip") and match.lower().endswith(".zip")


def _of_table(spec: SubjectSpec, folder: Path, named_at: Place, problems: Problems) -> Iterator[Subject]:
    for row in read_subject_table(absolute(folder, spec.table or ""), spec, named_at, problems):
        subject = _of_folder(row.spec, folder)
        yield replace(subject, preset=row.preset, places=dict.fromkeys((*PLACED, "preset"), row.place))


def _of_glob(spec: SubjectSpec, folder: Path) -> list[Subject]:
    pattern = spec.glob or ""
    matches = _matches(NAME_PART.sub("*", pattern), folder)
    folders = [match for match in matches if os.path.isdir(folder / match) or _is_zip(pattern, match)]
    files = tuple(match for match in matches if match not in folders)
    if not folders:
        return [_of_match(spec, "", None, pattern, {}, files)]
    unfit = tuple(match for match in _loosely(pattern, folder) if match not in matches)
    subjects = []
    for i, match in enumerate(folders):
        home, parts = Path(os.path.abspath(folder / match)), _parts(pattern, match)
        first = (files, unfit) if i == 0 else ((), ())
        subjects.append(_of_match(spec, slug(parts.get("name") or _named(home)), home, match, parts, *first))
    return subjects


def _of_match(
    spec: SubjectSpec,
    name: str,
    home: Path | None,
    written: str,
    parts: Mapping[str, str],
    beside: tuple[str, ...],
    unfit: tuple[str, ...] = (),
) -> Subject:
    noun = parts["class"].replace("_", " ") if "class" in parts else spec.class_noun
    return Subject(
        name or (written if home is None else ""), home, written, noun, spec.instance_prompt, spec.caption_column, True,
        beside, unfit,
    )  # fmt: skip


def _parts(pattern: str, match: str) -> dict[str, str]:
    """What `{class}` and `{name}` of a pattern stand for in one of its matches: the shortest class, and the rest."""
    found: dict[str, str] = {}
    for piece, part in zip(reversed(Path(pattern).parts), reversed(Path(match).parts), strict=False):
        names = NAME_PART.findall(piece)
        between = [_as_regex(literal) for literal in NAME_PART.split(piece)[::2]]
        groups = [rf"(?P<{'noun' if name == 'class' else name}>.+?)" for name in names]
        expression = "".join(text for pair in zip(between, [*groups, ""], strict=True) for text in pair)
        if names and (matched := re.fullmatch(expression, part, re.DOTALL)):
            found |= {"class" if key == "noun" else key: value for key, value in matched.groupdict().items()}
    return found


def _as_regex(literal: str) -> str:
    """A piece of a glob as a regular expression, whose stars take as little as they can."""
    inner = re.fullmatch(r"\(\?s:(.*)\)\\[Zz]", translate(literal), re.DOTALL)
    return inner[1].replace(".*", ".*?") if inner is not None else re.escape(literal)


def _loosely(pattern: str, folder: Path) -> list[str]:
    """Folders where `{class}` and `{name}` do not have to fit."""
    pieces = ["*" if NAME_PART.search(piece) else piece for piece in pattern.split("/")]
    if not NAME_PART.search(pattern):
        return []
    return [match for match in _matches("/".join(pieces), folder) if os.path.isdir(folder / match)]


def _matches(pattern: str, folder: Path) -> list[str]:
    """What a pattern matches, as its literal spelling or with variables replaced, but for what systems leave."""
    if "\0" in pattern:
        return []
    matches = glob(os.path.expanduser(pattern), root_dir=folder) or glob(expand(pattern), root_dir=folder)
    return sorted(match for match in matches if not any(is_system(part) for part in Path(match).parts))
