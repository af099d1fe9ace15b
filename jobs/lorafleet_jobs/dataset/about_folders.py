"""Findings about a subject's folder: that it is missing, or what in it is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from lorafleet_jobs.dataset.findings import Finding, error, finding, some
from lorafleet_jobs.dataset.listing import Listing, count_images
from lorafleet_jobs.dataset.open_image import is_utf8
from lorafleet_jobs.dataset.paths import is_windows_path, unset_variable
from lorafleet_jobs.dataset.subjects import Subject
from lorafleet_jobs.image_formats import OTHER_SUFFIXES, RAW_SUFFIXES, READ, SUFFIXES

_KOHYA = re.compile(r"(?!\d{3}_[A-Z0-9]{4}$)([1-9]\d{0,2})_(?=\D)(.+)")
"""How kohya's trainers read a folder: repeats, then the caption of all its images. `101_PANA` is a camera's own."""


def about_place(subject: Subject) -> Finding | None:
    """Why a subject's folder cannot be opened; None if it can."""
    folder, written = subject.folder, subject.written
    if subject.out_of_reach:
        return error("D038", subject.out_of_reach)
    if folder is None:
        return error("D020", f"glob {written!r} matches no folder{_only_files(subject)}; {_hint(written)}")
    if not is_utf8(str(folder)):
        return error("D020", f"the path {folder} is not UTF-8; rename the folder")
    if os.path.isdir(folder):  # unlike Path's, False for names that no path can have
        readable = os.access(folder, os.R_OK | os.X_OK)
        return None if readable else error("D020", f"folder {written!r} cannot be opened; check its permissions")
    if os.path.exists(folder):
        return error("D020", f"{written!r} is a file; give the folder, or a zip file, that holds the images")
    return error("D020", f"no folder {written!r} ({folder}); {_near(subject, folder) or _hint(written)}")


def about_left_out(subject: Subject, listing: Listing, used: Collection[str]) -> Iterator[Finding]:
    """What in a folder is no part of the data, each file and folder by its name; `used` are files that are read."""
    yield from _about_raws(listing)
    if listing.videos:
        yield _left_out(f"left out as {_counted(listing.videos, 'video')}; save a frame as JPEG to train on it")
    if listing.leftovers:
        names = _names(listing.leftovers)
        yield _left_out(f"left out as backups or unfinished copies: {names}; rename what is meant to be trained")
    if listing.hidden:
        yield _left_out(f"left out as hidden: {_names(listing.hidden)}; rename what is meant to be trained")
    if others := [path for path in listing.others if path.name not in used]:
        yield _left_out(f"left out as neither images nor captions: {_names(others)}")
    if listing.folders:
        inside = some([_with_count(path) for path in listing.folders])
        yield _left_out(f"folders in it are not looked into: {inside}; move what is meant to be trained up")
    if subject.unfit:
        message = f"of no subject, for their names do not fit the glob's {{class}} and {{name}}: {some(subject.unfit)}"
        yield finding("D028", "warn", f"{message}; rename them, or list them by themselves")
    if subject.beside:
        pictures = any(Path(name).suffix.lower() in SUFFIXES | RAW_SUFFIXES | OTHER_SUFFIXES for name in subject.beside)
        message = f"beside the folders of the glob and of no subject: {some(subject.beside)}; move them into one"
        yield finding("D028", "warn" if pictures else "info", message)


def about_nothing(subject: Subject, listing: Listing) -> Finding:
    """That no image can be read, and where there are some instead."""
    written = subject.written
    counts = {path.name: count_images(path) for path in listing.folders}
    below = [path for path in listing.folders if counts[path.name]]
    if not below:
        if listing.raws:
            what = _counted(listing.raws, "RAW file")
            return error("D001", f"no readable image in {written!r}, only {what}; export them as JPEG")
        if listing.folders:
            inside = f"only {_counted(listing.folders, 'folder')}"
            return error("D001", f"no readable image in {written!r}, {inside}; give the folder that holds the images")
        return error("D001", f"no readable image in {written!r}; put 4 to 30 {READ} files there")
    shown, first = some([_with_count(path) for path in below]), below[0].name
    which = "a folder" if len(below) == 1 else f"{len(below)} folders"
    message = f"no readable image in {written!r}, but it holds {which} with images: {shown}; "
    message += f'give glob: "{written.rstrip("/")}/*" for a subject each, or images: "{written.rstrip("/")}/{first}"'
    if match := _KOHYA.fullmatch(first):
        message += f" (what {match[1]}_ says to kohya's trainers is recipe.repeats: {match[1]} here)"
    return error("D001", message)


def about_name(subject: Subject) -> Iterator[Finding]:
    """That a folder is named as another trainer reads it, and what of that is not read here."""
    match = _KOHYA.fullmatch(subject.folder.name) if subject.folder is not None else None
    if match is not None:
        message = f"folder {match[0]!r} is named as kohya's trainers read it, {match[1]} repeats of {match[2]!r}; "
        message += f"here a name says nothing: set recipe.repeats: {match[1]}, and class: or instance_prompt: in words"
        yield finding("D032", "info", message)


def _about_raws(listing: Listing) -> Iterator[Finding]:
    """Those that have a picture of their name are what it was made of."""
    made = {path.stem.lower() for path in listing.images}
    if lost := [path for path in listing.raws if path.stem.lower() not in made]:
        message = f"not read: {_counted(lost, 'RAW file')}; export what is meant to be trained as JPEG"
        yield finding("D002", "warn", message, lost[0].name)
    if idle := [path for path in listing.raws if path not in lost]:
        yield _left_out(f"left out as the RAW of pictures beside them: {_names(idle)}")


def _left_out(message: str) -> Finding:
    return finding("D028", "info", message)


def _names(paths: Sequence[Path]) -> str:
    return some([path.name for path in paths])


def _counted(paths: Sequence[Path], noun: str) -> str:
    return f"{len(paths)} {noun}{'s' * (len(paths) > 1)}: {_names(paths)}"


def _with_count(path: Path) -> str:
    count = count_images(path)
    return f"{path.name} ({count} image{'s' * (count != 1)})"


def _only_files(subject: Subject) -> str:
    return f", only files ({some(subject.beside)})" if subject.beside else ""


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
