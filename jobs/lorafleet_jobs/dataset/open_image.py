"""Opens one image of a user's folder: what it is, or the finding that says why it cannot be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lorafleet.errors import DataError
from lorafleet_jobs.dataset.findings import Finding, error, finding
from lorafleet_jobs.dataset.paths import leaves
from lorafleet_jobs.images import ImageFingerprint, OversizeError, look_at, read_image_bytes, read_picture
from lorafleet_jobs.screenshots import is_screenshot


@dataclass(frozen=True)
class OpenedImage:
    """An image that can be used."""

    file: str
    """Relative to its folder."""
    sha256: str
    looks: ImageFingerprint
    black: bool
    """All of it: as a mask it shows nothing."""
    see_through: bool = False
    """Whether some of it is transparent."""
    screenshot: bool = False
    """Whether it has all signs of a screenshot."""
    notes: tuple[Finding, ...] = ()
    """What the file says beside its pixels and could not be followed."""


def open_image(folder: Path, file: Path) -> OpenedImage | Finding:
    """Reads, verifies and looks at an image of a folder."""
    name = file.name
    if not is_utf8(name):
        return error("D002", f"{name} has a name that is not UTF-8; rename it", name)
    if leaves(folder, file):
        return error("D015", f"{name} is a link out of the folder; put a copy of the file there", name)
    try:
        data = read_image_bytes(file)
        picture = read_picture(data)
    except OversizeError as problem:
        return error("D003", f"{name} {problem}", name)
    except DataError as problem:
        return error("D002", f"{name} {problem}", name)
    black = picture.image.convert("L").getextrema() == (0, 0)
    notes = []
    if picture.profile_problem:
        notes.append(finding("D027", "warn", f"{name} {picture.profile_problem}", name))
    if picture.damage:
        notes.append(finding("D027", "info", f"{name} {picture.damage}", name))
    if picture.others:
        notes.append(finding("D028", "info", f"{name} {picture.others}", name))
    sha256, looks = hashlib.sha256(data).hexdigest(), look_at(picture.image)
    screenshot = not picture.of_camera and is_screenshot(picture.image)
    return OpenedImage(name, sha256, looks, black, picture.see_through, screenshot, tuple(notes))


def is_utf8(text: str) -> bool:
    """Whether a path's bytes were text: Python writes others as surrogates, which no JSON can carry."""
    return not any("\ud800" <= c <= "\udfff" for c in text)
