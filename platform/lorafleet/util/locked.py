"""Locks between processes of one machine: the kernel's, on a file, so that they end with the process that holds one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def locked(path: Path, *, shared: bool = False, wait: bool = True) -> IO[bytes]:
    """A lock file, opened and locked; closing it unlocks it. Makes the file and its folder.

    Any number of shared locks exclude an exclusive one. Without `wait` raises BlockingIOError if another process, or
    another call in this one, holds a lock that excludes this one. Raises OSError if the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock inside the block, after waiting for whoever holds it.

    Where the file cannot be written it is not locked: whatever it protects cannot be written either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        yield
        return
    with locked(path):
        yield
