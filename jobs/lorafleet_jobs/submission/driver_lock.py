"""One driver a submission at a time: a file lock under the home that ends with its process, however it ends."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lorafleet.home import Home

TRIES = 5


@contextmanager
def driver_lock(home: Home, submission: str) -> Iterator[bool]:
    """Holds the lock inside the block and says True, or says False if another process holds it."""
    path = _path(home, submission)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        yield _take(file)


def _take(file: IO[str]) -> bool:
    for _ in range(TRIES):  # `has_driver` in another process holds it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        else:
            return True
    return False


def has_driver(home: Home, submission: str) -> bool:
    """Whether a process is driving the submission now."""
    path = _path(home, submission)
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _path(home: Home, submission: str) -> Path:
    return home.submissions / submission / "driver.lock"
