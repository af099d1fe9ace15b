"""What one process has said about one run and MLflow may not have yet, on disk, so that it survives the process.

A run's folder holds one journal a process: lines of JSON, and pictures beside them. A journal belongs to whoever holds
its file lock, which ends with the process, however it ends; then anybody may adopt it. Nothing is fsynced: a killed
process loses nothing, a machine that loses power its last seconds. Knows files; refuses to know MLflow.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from lorafleet.tracking.entries import Numbers, Picture, from_line, to_line

ENDING = ".jsonl"
TURN = "turn"


@dataclass(frozen=True)
class Turn:
    """Whether this process may send for a run now."""

    mine: bool
    others_sent: bool
    """Somebody else has sent since this process last did."""


class NoJournal:
    """Keeps nothing: what waits, waits in memory."""

    durable = False

    def keep(self, entry: Numbers | Picture) -> Numbers | Picture:
        """The entry as it was."""
        return entry

    def sent(self, entry: Numbers | Picture) -> None:
        """Forgets the entry."""

    def clear(self) -> None:
        """Forgets everything."""

    def adopt(self) -> list[Numbers | Picture]:
        """Nothing has been left by anybody."""
        return []

    def overheard(self) -> list[Numbers | Picture]:
        """Nobody else says anything."""
        return []

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """It is always this process's turn."""
        yield Turn(mine=True, others_sent=False)

    def close(self) -> None:
        """Ends nothing."""


class Journal:
    """One process's journal of one run."""

    durable = True

    def __init__(self, folder: Path) -> None:
        """Opens a new one in the run's folder. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"
        self._file = _create(folder / (self.name + ENDING))
        self._adopted: list[IO[bytes]] = []

    def keep(self, entry: Numbers | Picture) -> Numbers | Picture:
        """Writes an entry down; a picture's pixels are in its file from then on. Raises OSError.

        Pictures are stored uncompressed: that costs a few milliseconds and waits for nobody.
        """
        if isinstance(entry, Picture) and not isinstance(entry.pixels, Path):
            file = self.folder / f"{entry.name}.png"
            entry.pixels.save(file, compress_level=0)
            entry = replace(entry, pixels=file)
        self._append(f"{to_line(entry)}\n".encode())
        return entry

    def _append(self, line: bytes) -> None:
        if (written := self._file.write(line)) != len(line):  # a full disk takes what it can
            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def sent(self, entry: Numbers | Picture) -> None:
        """Removes the file of a picture that has arrived."""
        if isinstance(entry, Picture) and isinstance(entry.pixels, Path):
            entry.pixels.unlink(missing_ok=True)

    def clear(self) -> None:
        """Everything has arrived, of this journal and of those that were adopted."""
        os.ftruncate(self._file.fileno(), 0)
        for file in self._adopted:
            Path(file.name).unlink(missing_ok=True)
            file.close()
        self._adopted.clear()

    def adopt(self) -> list[Numbers | Picture]:
        """What processes left that began earlier and have ended, oldest first; it is this process's from now on."""
        found: list[Numbers | Picture] = []
        for path in self._older():
            if (file := _take(path)) is None:
                continue
            if entries := _read(file, self.folder):
                self._adopted.append(file)
                found += entries
            else:  # all had arrived when its process was killed
                path.unlink(missing_ok=True)
                file.close()
        return found

    def overheard(self) -> list[Numbers | Picture]:
        """What processes say that began earlier and live, thought dead as they may be; oldest first."""
        adopted = {file.name for file in self._adopted}
        found: list[Numbers | Picture] = []
        for path in self._older():
            if str(path) not in adopted:
                with suppress(FileNotFoundError), path.open("rb") as file:
                    found += _read(file, self.folder)
        return found

    def _older(self) -> list[Path]:
        return [path for path in sorted(self.folder.glob(f"*{ENDING}")) if path.stem < self.name]

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Keeps other processes from sending for this run inside the block, unless one of them does already."""
        try:
            file = (self.folder / TURN).open("a+")
        except OSError:  # a full disk must not keep back what MLflow would take
            yield Turn(mine=True, others_sent=True)
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield Turn(mine=False, others_sent=True)
                return
            yield Turn(mine=True, others_sent=self._last_turn(file) not in ("", self.name))

    def _last_turn(self, file: IO[str]) -> str:
        file.seek(0)
        last = file.read()
        if last != self.name:
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), self.name.encode())
        return last

    def close(self) -> None:
        """Gives up what this process holds; what has not arrived stays for whoever comes next."""
        empty = os.fstat(self._file.fileno()).st_size == 0
        if empty:
            (self.folder / (self.name + ENDING)).unlink(missing_ok=True)
        self._file.close()
        for file in self._adopted:
            file.close()
        if not any(self.folder.glob(f"*{ENDING}")):
            _remove(self.folder)


def left_in(folder: Path) -> int:
    """How many entries lie in a run's folder, whoever holds them."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"*{ENDING}"))


def _create(path: Path) -> IO[bytes]:
    """A new journal, locked; made again if somebody took it for a dead process's before it was locked."""
    while True:
        file = path.open("ab", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _take(path: Path) -> IO[bytes] | None:
    """A journal that nobody holds, locked; None if somebody does or it is gone."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if os.fstat(file.fileno()).st_nlink == 0:  # its last holder finished it just now
        file.close()
        return None
    return file


def _read(file: IO[bytes], folder: Path) -> list[Numbers | Picture]:
    lines = file.read().decode(errors="replace").splitlines()
    return [entry for line in lines if (entry := from_line(line, folder)) is not None]


def _remove(folder: Path) -> None:
    """Removes a run's folder with what torn writes left in it, unless a journal has been opened there meanwhile."""
    for stray in (*folder.glob("*.png"), folder / TURN):
        stray.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return  # a new journal lies there
