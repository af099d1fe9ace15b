"""How far a check has come, on stderr while it lasts: on a terminal one line that renews itself, elsewhere a few."""

from __future__ import annotations

import os
import time

from lorafleet.console import err

FIRST_SECONDS, PLAIN_SECONDS = 0.5, 10.0
"""Before the first word on a terminal, and between two lines elsewhere."""
MANY = 100
"""Of so many subjects the first word is said at once."""


def cores() -> int:
    """How many processes may open images at once."""
    return len(os.sched_getaffinity(0))


class Ticking:
    """Tells how many subjects have been looked at, or what else is done; says nothing of what is over at once."""

    def __init__(self, what: str = "subjects are looked at") -> None:
        self._what = what
        self._next = time.monotonic() + (FIRST_SECONDS if err.is_terminal else PLAIN_SECONDS)
        self._said = False

    def __call__(self, done: int, count: int) -> None:
        """Called before the first and after each."""
        if done == count:
            self._wipe()
        elif time.monotonic() >= self._next or (done == 0 and count >= MANY):
            self._say(f"{done} of {count} {self._what}")

    def _say(self, text: str) -> None:
        if err.is_terminal:
            self._next = time.monotonic() + 0.1
            err.file.write(f"\r\x1b[K{text}")
            err.file.flush()
        else:
            self._next = time.monotonic() + PLAIN_SECONDS
            err.print(text, markup=False)
        self._said = True

    def _wipe(self) -> None:
        if self._said and err.is_terminal:
            err.file.write("\r\x1b[K")
            err.file.flush()
