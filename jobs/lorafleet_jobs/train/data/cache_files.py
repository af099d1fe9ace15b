"""Files that jobs in several processes share: written whole or not at all, and locked while they are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorafleet.errors import DataError
from lorafleet.util import files
from lorafleet.util.locked import locked


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that no reader ever sees half of it. Not synced: readers check hashes. Raises DataError."""
    try:
        files.write_whole(path, data, synced=False)
    except OSError as problem:
        raise _unwritable(path, problem) from None


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Waits until no other process is inside a block of the same lock file. Raises DataError if it cannot be made."""
    try:
        lock = locked(path)
    except OSError as problem:
        raise _unwritable(path, problem) from None
    with lock:
        yield


@contextmanager
def try_only_process(path: Path) -> Iterator[bool]:
    """Says whether no other process is inside a block of the same lock file, and lets none in until this one ends."""
    try:
        lock = locked(path, wait=False)
    except BlockingIOError:
        yield False
        return
    with lock:
        yield True


def _unwritable(path: Path, problem: OSError) -> DataError:
    return DataError(f"cannot write {path} ({problem.strerror}); make room, or choose another LORAFLEET_HOME")
