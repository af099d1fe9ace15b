"""Texts without what they say of a forgotten subject: a submission's manifest and its log. Pure."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePath
from typing import Any

import yaml

GONE = "(forgotten)"
"""Stands for the folder of photographs in a manifest."""


def manifest_without(text: str, subject: str, folders: Collection[str]) -> str:
    """A manifest whose entry for a subject has only its name left, so that it still reads as a manifest.

    Entries of several subjects, a glob or a table, stay as they are: they name folders of all, and nobody's own.
    """
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or not isinstance(document.get("subjects"), list):
        return text
    names = {PurePath(folder).name for folder in folders if folder}
    entries = [
        {"name": subject, "images": GONE} if _is_its(entry, subject, names) else entry for entry in document["subjects"]
    ]
    return yaml.safe_dump({**document, "subjects": entries}, sort_keys=False)


def lines_without(text: bytes, words: Collection[str]) -> bytes:
    """A log without the lines in which one of these words stands."""
    wanted = [word.encode() for word in words if word]
    return b"".join(line for line in text.splitlines(keepends=True) if not any(word in line for word in wanted))


def _is_its(entry: Any, subject: str, folder_names: Collection[str]) -> bool:
    if not isinstance(entry, dict) or entry.get("images") is None:
        return False
    if entry.get("name") is not None:
        return bool(entry["name"] == subject)
    return PurePath(str(entry["images"])).name in {subject, *folder_names}
