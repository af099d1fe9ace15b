"""A job's own log: dated lines that its lanes and its driver append and `lorafleet logs` reads.

    2026-11-21T11:30:05Z attempt 1, lane 3f9c-0
    2026-11-21T11:30:09Z MemoryError: no room
      what belongs to a line is indented under it: a traceback

Knows lines; refuses to know jobs: what is worth a line is decided where it happens.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (.*)")


@dataclass(frozen=True)
class Entry:
    """A dated line and what is indented under it."""

    time: str
    """UTC; empty for what stands before the first dated line."""
    text: str


@dataclass(frozen=True)
class JobLog:
    """One text file; several processes may append at once."""

    path: Path

    def append(self, text: str) -> None:
        """Appends `2026-11-21T11:30:05Z text`, further lines of the text indented under it; makes the folder.

        A disk that cannot be written is a warning: a job must not fail because of its log.
        """
        first, *more = text.strip().splitlines() or [""]
        lines = [f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {first}", *(f"  {line}" for line in more)]
        try:
            self._write(("\n".join(lines) + "\n").encode("utf-8", "replace"))
        except OSError as problem:
            log.warning("%s; not logged there: %s", problem, first)

    def _write(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file opened for appending is not torn by another process's, which a buffered stream may be.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(file, data)
        finally:
            os.close(file)


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries of a log, each with the lines that are indented under it."""
    time, text = "", list[str]()
    for line in lines:
        if (stamped := STAMP.fullmatch(line.rstrip("\n"))) is None:
            text.append(line.rstrip("\n").removeprefix("  "))
            continue
        if text:
            yield Entry(time, "\n".join(text))
        time, text = stamped[1], [stamped[2]]
    if text:
        yield Entry(time, "\n".join(text))


def follow(path: Path, is_over: Callable[[], bool], pause: Callable[[], None]) -> Iterator[str]:
    """A log's lines, also those that are yet to be written; ends once `is_over` is true and everything was read."""
    position = 0
    while True:
        over = is_over()  # asked first, so that lines written before it are read below
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(position)
                for line in stream:
                    if line.endswith(b"\n"):  # else it is still being written
                        position += len(line)
                        yield line.decode("utf-8", "replace")
        if over:
            return
        pause()
