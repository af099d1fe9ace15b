"""Files that jobs in several processes share: written whole or not at all, and locked while they are made."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorafleet.errors import DataError


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that no reader ever sees half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as problem:
        raise _unwritable(path, problem) from None


@contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Waits until no other process is inside a block of the same lock file; ends with the process, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as problem:
        raise _unwritable(path, problem) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unwritable(path: Path, problem: OSError) -> DataError:
    return DataError(f"cannot write {path} ({problem.strerror}); make room, or choose another LORAFLEET_HOME")
