"""Findings about a subject's folder: that it is missing, or what in it is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from lorafleet_jobs.dataset.findings import Finding, error, finding
from lorafleet_jobs.dataset.listing import Listing, count_images
from lorafleet_jobs.dataset.open_image import is_utf8
from lorafleet_jobs.dataset.paths import is_windows_path, unset_variable
from lorafleet_jobs.dataset.subjects import Subject
from lorafleet_jobs.images import OTHER_SUFFIXES, SUFFIXES

_REPEATS = re.compile(r"(\d+)_")


def about_place(subject: Subject) -> Finding | None:
    """Why a subject's folder cannot be opened; None if it can."""
    folder, written = subject.folder, subject.written
    if folder is None:
        return error("D020", f"glob {written!r} matches no folder{_only_files(subject)}; {_hint(written)}")
    if not is_utf8(str(folder)):
        return error("D020", f"the path {folder} is not UTF-8; rename the folder")
    if os.path.isdir(folder):  # unlike Path's, False for names that no path can have
        readable = os.access(folder, os.R_OK | os.X_OK)
        return None if readable else error("D020", f"folder {written!r} cannot be opened; check its permissions")
    if os.path.exists(folder):
        return error("D020", f"{written!r} is a file; give the folder that holds the subject's images")
    return error("D020", f"no folder {written!r} ({folder}); {_near(subject, folder) or _hint(written)}")


def about_left_out(subject: Subject, listing: Listing, used: Collection[str]) -> Iterator[Finding]:
    """What in a folder is no part of the data, each file and folder by its name; `used` are files that are read."""
    if listing.leftovers:
        names = _names(listing.leftovers)
        yield _left_out(f"left out as backups or unfinished copies: {names}; rename what is meant to be trained")
    if listing.hidden:
        yield _left_out(f"left out as hidden: {_names(listing.hidden)}; rename what is meant to be trained")
    if others := [path for path in listing.others if path.name not in used]:
        yield _left_out(f"left out as neither images nor captions: {_names(others)}")
    if listing.folders:
        inside = ", ".join(_with_count(path) for path in listing.folders)
        yield _left_out(f"folders in it are not looked into: {inside}; move what is meant to be trained up")
    if subject.beside:
        pictures = any(Path(name).suffix.lower() in SUFFIXES | OTHER_SUFFIXES for name in subject.beside)
        message = f"beside the folders of the glob and of no subject: {', '.join(subject.beside)}; move them into one"
        yield finding("D028", "warn" if pictures else "info", message)


def about_nothing(subject: Subject, listing: Listing) -> Finding:
    """That no image can be read, and where there are some instead."""
    written = subject.written
    counts = {path.name: count_images(path) for path in listing.folders}
    below = [path for path in listing.folders if counts[path.name]]
    if not below:
        return error("D001", f"no readable image in {written!r}; put 4 to 30 JPEG, PNG or WEBP files there")
    shown = ", ".join(_with_count(path) for path in below)
    first = below[0].name
    message = f"no readable image in {written!r}, but it holds folders with images: {shown}; "
    message += f'give glob: "{written}/*" for a subject each, or images: "{written}/{first}"'
    if match := _REPEATS.match(first):
        message += f" (what {match[0]} says to kohya's trainers is recipe.repeats: {match[1]} here)"
    return error("D001", message)


def _left_out(message: str) -> Finding:
    return finding("D028", "info", message)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _with_count(path: Path) -> str:
    count = count_images(path)
    return f"{path.name} ({count} image{'s' * (count != 1)})"


def _only_files(subject: Subject) -> str:
    return f", only files ({', '.join(subject.beside)})" if subject.beside else ""


def _near(subject: Subject, folder: Path) -> str:
    """What the folder may have been meant to be; "" if there is nothing like it."""
    if "\\" in subject.written and Path(str(folder).replace("\\", "/")).is_dir():
        return f"did you mean {subject.written.replace(chr(92), '/')!r}?"
    if not os.path.isdir(folder.parent):
        return ""
    names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    near = get_close_matches(folder.name, names, n=1)
    return f"did you mean {str(Path(subject.written).with_name(near[0]))!r}?" if near else ""


def _hint(written: str) -> str:
    if is_windows_path(written):
        return "that is a path of Windows, and this is not; give one of this machine, such as /mnt/c/... under WSL"
    if (variable := unset_variable(written)) is not None:
        return f"the variable {variable} is not set here; set it, or write the path out"
    return "paths are relative to the manifest"
