"""Which image a caption means: by its name as other programs and systems write it, where that can mean one only."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from lorafleet_jobs.image_formats import OTHER_SUFFIXES, SUFFIXES


class ImageNames:
    """The image files of one folder, by what they may be called."""

    def __init__(self, folder: Path, images: Sequence[str]) -> None:
        self._folder, self._images = folder, tuple(images)
        self._by_name = [_Index(images, str, spelling) for spelling in _SPELLINGS]
        self._by_stem = [_Index(images, _stem, spelling) for spelling in _SPELLINGS]

    def named(self, written: str) -> str | None:
        r"""The image that a line of a table names; None if none, or more than one, can be meant.

        `./a.jpg`, `folder\a.jpg`, `/elsewhere/a.jpg`, another case, another Unicode form, and a name without its
        suffix are found; a path to a file that is there and another one is not.
        """
        if written in self._images:
            return written
        path = PurePosixPath(written.strip().replace("\\", "/"))
        if ".." in path.parts or "\0" in written or self._is_another(path):
            return None
        for index in self._by_name if _has_suffix(path) else (*self._by_name, *self._by_stem):
            if matches := index.get(path.name):
                return matches[0] if len(matches) == 1 else None
        return None

    def is_image(self, text: str) -> bool:
        """Whether a text is nothing but the file name of an image."""
        return _has_suffix(PurePosixPath(text.strip())) and self.named(text) is not None

    def beside(self, key: str) -> Sequence[str]:
        """The images that a caption file is for: `key` is its name without its suffix, `a` or `a.jpg`."""
        for by_name, by_stem in zip(self._by_name, self._by_stem, strict=True):
            for index in (by_name, by_stem):
                matches = index.get(key)
                if len({_stem(image) for image in matches}) == 1:
                    return matches
        return ()

    def near(self, written: str) -> str | None:
        """The image whose name is most like it."""
        name = PurePosixPath(written.strip().replace("\\", "/")).name
        return next(iter(get_close_matches(name, self._images, n=1)), None)

    def _is_another(self, path: PurePosixPath) -> bool:
        """Whether there is a file of this path that is none of this folder's own."""
        file = self._folder / path
        return os.path.exists(file) and os.path.realpath(file.parent) != os.path.realpath(self._folder)


class _Index:
    """Images by a spelling of a part of their names."""

    def __init__(self, images: Sequence[str], part: Callable[[str], str], spelling: Callable[[str], str]) -> None:
        self._spelling = spelling
        self._images: dict[str, list[str]] = {}
        for image in images:
            self._images.setdefault(spelling(part(image)), []).append(image)

    def get(self, key: str) -> Sequence[str]:
        return self._images.get(self._spelling(key), ())


def _has_suffix(path: PurePosixPath) -> bool:
    return path.suffix.lower() in SUFFIXES | OTHER_SUFFIXES


def _stem(name: str) -> str:
    return Path(name).stem


def _composed(name: str) -> str:
    """In Unicode's composed form; macOS writes names in the other."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


_SPELLINGS = (str, _composed, _folded)
"""As it is first, then ever freer."""
