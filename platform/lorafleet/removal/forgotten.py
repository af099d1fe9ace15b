"""The contents that a home was told to forget, as hashes and nothing else, so that they do not come back unnoticed.

    <home>/forgotten/hashes.txt     one a line: of photographs' files and pixels, and of adapters' tensors

A hash says whether a file that is given is a forgotten one; from the hash alone nothing can be made. Knows bytes;
refuses to know subjects, and what is done about a file that is on the list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from lorafleet.errors import BundleError
from lorafleet.home import Home
from lorafleet.util.files import write_whole
from lorafleet.util.locked import file_lock

LEAST_BYTES = 64
"""Smaller tensors, as an alpha, are the same in many files; they do not count."""
ASKED_TOO = "--forgotten-too"
"""The option with which a command takes forgotten contents all the same."""


def list_of(home: Home) -> Path:
    """The file of the list."""
    return home.forgotten / "hashes.txt"


def read_forgotten(home: Home) -> frozenset[str]:
    """The hashes on the list; empty if nothing was ever forgotten."""
    path = list_of(home)
    return frozenset(path.read_text("utf-8").split()) if path.is_file() else frozenset()


def remember_forgotten(home: Home, hashes: Collection[str]) -> None:
    """Adds hashes to the list, which is on disk when this returns."""
    path = list_of(home)
    with file_lock(path.with_suffix(".lock")):
        known = read_forgotten(home)
        if not known >= set(hashes):
            write_whole(path, "".join(f"{one}\n" for one in sorted({*known, *hashes})).encode())


def refuse_forgotten(files: Iterable[Path], home: Home) -> None:
    """Raises BundleError if one of these files has the tensors of an adapter that was forgotten."""
    known = read_forgotten(home)
    for file in files if known else ():
        if tensors_digest(file) in known:
            raise BundleError(
                f"{file.name}: these are the weights of an adapter that was forgotten here; leave it out, or take it "
                f"all the same with {ASKED_TOO}"
            )


def tensors_digest(path: Path) -> str | None:
    """sha256 over the values of a safetensors file's tensors, whatever they are called and in whichever order.

    None for a file that is no such file, or has no tensor of some size.
    """
    try:
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        parts = [data[start + begin : start + end] for begin, end in spans if end - begin >= LEAST_BYTES]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    each = sorted(hashlib.sha256(part).hexdigest() for part in parts)
    return hashlib.sha256("".join(each).encode()).hexdigest() if each else None
