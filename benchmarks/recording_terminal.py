"""A terminal as a recorder sees it: runs commands under one, keeps what they wrote, and draws it.

Knows the few control sequences that rich sends (colour, link, cursor up, erase a line); refuses to know what
is recorded.
"""

from __future__ import annotations

import codecs
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

LINK = re.compile(r"\x1b\]8;[^\x1b\x07]*(\x1b\\|\x07)")  # OSC 8: of a link its text is kept
TOKEN = re.compile(r"\x1b\[(?P<n>[0-9;?]*)(?P<do>[@-~])|(?P<control>[\r\n])|(?P<text>[^\x1b\r\n]+)")
HALF_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*|\][^\x1b\x07]*\x1b?)?$")
FRAME_SECONDS = 2.0
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # rich would have them fetched from elsewhere


@dataclass
class Screen:
    """Every line written so far, those that have scrolled away too, each with its colours as they came."""

    rows: list[str] = field(default_factory=lambda: [""])
    _row: int = 0
    _fresh: bool = True
    """Whether what comes next is written over the line."""
    _rest: str = ""

    def feed(self, text: str) -> None:
        """More of what was written; may end within a sequence."""
        text = self._rest + text
        half = HALF_SEQUENCE.search(text)
        self._rest = half.group() if half else ""
        for token in TOKEN.finditer(LINK.sub("", text[: len(text) - len(self._rest)])):
            self._take(token)

    def _take(self, token: re.Match[str]) -> None:
        match token["do"] or token["control"]:
            case "\n":
                self._row, self._fresh = self._row + 1, True
                self.rows += [""] * (self._row + 1 - len(self.rows))
            case "\r":
                self._fresh = True
            case "A":
                self._row = max(0, self._row - int(token["n"] or 1))
            case "K":
                self.rows[self._row] = ""
            case None | "m":
                self.rows[self._row] = token.group() if self._fresh else self.rows[self._row] + token.group()
                self._fresh = False

    def visible(self, height: int) -> list[str]:
        """The last lines, as many as the terminal shows."""
        return self.rows[-height:]


@dataclass
class Recorder:
    """Runs commands in a folder under a terminal of a fixed size. The folder's own path is written as ~."""

    folder: Path
    environment: Mapping[str, str]
    width: int
    height: int
    screen: Screen = field(default_factory=Screen)
    frames: list[tuple[float, list[str]]] = field(default_factory=list)
    _clock: float = 0.0

    def run(self, command: str) -> int:
        """Types a command line, waits for its end, and returns its exit code."""
        self._show(f"\x1b[1;32m$\x1b[0m {command}\r\n")
        started, before = time.monotonic(), self._clock
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", self.height, self.width, 0, 0))
        child = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=dict(self.environment), start_new_session=True,
            stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while piece := _read(ours):
            self._clock = before + time.monotonic() - started
            self._show(decode(piece))
        os.close(ours)
        return child.wait()

    def say(self, text: str) -> None:
        """Writes a line that no command wrote, as a shell would."""
        self._show(text + "\r\n")

    def _show(self, text: str) -> None:
        self.screen.feed(text)
        if not self.frames or self._clock - self.frames[-1][0] >= FRAME_SECONDS:
            self.frames.append((self._clock, self._now()))

    def _now(self) -> list[str]:
        return [row.replace(str(self.folder), "~") for row in self.screen.visible(self.height)]

    def write_cast(self, path: Path, title: str) -> None:
        """As asciinema plays it (version 2): a picture now and then, of each only the lines that changed."""
        size = {"version": 2, "width": self.width, "height": self.height, "title": title, "idle_time_limit": 2}
        lines, shown = [json.dumps(size)], list[str]()
        for at, rows in [*self.frames, (self._clock + FRAME_SECONDS, self._now())]:
            if rows != shown:
                lines.append(json.dumps([round(at, 2), "o", "".join(_changes(shown, rows))]))
            shown = rows
        path.write_text("\n".join(lines) + "\n")

    def write_svg(self, path: Path, title: str) -> None:
        """All lines as they stand in the end, as a picture."""
        console = Console(record=True, width=self.width, file=io.StringIO(), force_terminal=True)
        for line in decoded(row.replace(str(self.folder), "~") for row in self.screen.rows):
            console.print(line, overflow="fold")
        path.write_text(FONT_FACE.sub("", console.export_svg(title=title, theme=MONOKAI, unique_id="recording")))


def decoded(rows: Iterable[str]) -> list[Text]:
    """Lines with their colours, without empty ones at the end."""
    decoder = AnsiDecoder()
    lines = [decoder.decode_line(row) for row in rows]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def _changes(before: Sequence[str], after: Sequence[str]) -> Iterable[str]:
    for index in range(max(len(before), len(after))):
        old, new = (rows[index] if index < len(rows) else "" for rows in (before, after))
        if old != new:
            yield f"\x1b[{index + 1};1H\x1b[0m\x1b[2K{new}"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: nobody has the other end open any more
        return b""
