"""Files that jobs in several processes share: written whole or not at all, and locked while they are made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lorafleet.errors import DataError
from lorafleet.util import files
from lorafleet.util.locked import locked
from lorafleet_jobs.train.data.pieces import Pieces, awaited

POLL_SECONDS = 0.1


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that no reader ever sees half of it. Not synced: readers check hashes. Raises DataError."""
    try:
        files.write_whole(path, data, synced=False)
    except OSError as problem:
        raise _unwritable(path, problem) from None


def only_process(path: Path, thread: Executor) -> Pieces[IO[bytes]]:
    """Waits until no other process holds this lock file; the lock ends when the file that it returns is closed.

    Raises DataError if the file cannot be made.
    """
    while True:
        try:
            return locked(path, wait=False)
        except BlockingIOError:
            yield from awaited(thread.submit(time.sleep, POLL_SECONDS))
        except OSError as problem:
            raise _unwritable(path, problem) from None


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
