"""A job's own log: dated lines that its lanes and its driver append and `lorafleet logs` reads.

    2026-11-21T11:30:05Z attempt 1, lane 3f9c-0
    2026-11-21T11:30:09Z MemoryError: no room
      what belongs to a line is indented under it: a traceback

Knows lines, not jobs: what is worth saying is decided where it happens.
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
    """Something that was said."""

    time: str
    """UTC; empty if the log begins in the middle."""
    text: str


@dataclass(frozen=True)
class JobLog:
    """One text file; several processes may append at once."""

    path: Path

    def say(self, text: str) -> None:
        """Appends `2026-11-21T11:30:05Z text`, further lines of the text indented under it; makes the folder.

        A disk that takes no more is a warning: what is said about a job must not end it.
        """
        first, *more = text.strip().splitlines() or [""]
        lines = [f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {first}", *(f"  {line}" for line in more)]
        try:
            self._append(("\n".join(lines) + "\n").encode("utf-8", "replace"))
        except OSError as problem:
            log.warning("%s; not logged there: %s", problem, first)

    def _append(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file opened for appending is not torn by another process's, which a buffered stream may be.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(file, data)
        finally:
            os.close(file)


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """What a log's lines say, each with what is indented under it."""
    time, said = "", list[str]()
    for line in lines:
        if (stamped := STAMP.fullmatch(line.rstrip("\n"))) is None:
            said.append(line.rstrip("\n").removeprefix("  "))
            continue
        if said:
            yield Entry(time, "\n".join(said))
        time, said = stamped[1], [stamped[2]]
    if said:
        yield Entry(time, "\n".join(said))


def follow(path: Path, is_over: Callable[[], bool], pause: Callable[[], None]) -> Iterator[str]:
    """A log's lines, and those that are yet to come; ends once `is_over` says so and everything was read."""
    position = 0
    while True:
        over = is_over()  # asked first: what is said before that is read below
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(position)
                for line in stream:
                    if line.endswith(b"\n"):  # else somebody is still writing it
                        position += len(line)
                        yield line.decode("utf-8", "replace")
        if over:
            return
        pause()
