"""Files and folders that are seen whole or not at all, and that outlive a power cut. Knows paths and bytes only.

Everything is written under a hidden temporary name beside its place, synced, and renamed, which replaces in one step.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes, synced: bool = True) -> None:
    """Writes a file, replacing one that is there; makes its folder. A failure leaves nothing behind. Raises OSError.

    When it returns the file and its name are on disk. Without `synced` a power cut may lose or damage it: for caches
    that check what they read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path)
    try:
        scratch.write_bytes(data)
        if synced:
            _sync(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)  # gone already if all went well
    if synced:
        _sync(path.parent)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """An empty folder to write files to, which takes the place of `target` when the block ends without an exception.

    Makes the folder above. When the block has ended everything is on disk; after an exception nothing is left.
    """
    scratch = _beside(target)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        replace_folder(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # gone already if all went well


def replace_folder(folder: Path, target: Path) -> None:
    """Syncs a finished folder and all that is in it, and renames it to `target`, in place of one that may be there.

    That one is renamed before it is deleted: whoever has its files open keeps them, and nobody sees it half gone.
    """
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    old = _beside(target)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder, links followed; 0 if there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _sync(path: Path) -> None:
    """Returns once a file's bytes, or a folder's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
