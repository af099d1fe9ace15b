"""How far a check has come, on stderr while it lasts: on a terminal one line that renews itself, elsewhere a few."""

from __future__ import annotations

import time

from lorafleet.console import err

FIRST_SECONDS, PLAIN_SECONDS = 0.5, 10.0
"""Before the first word on a terminal, and between two lines elsewhere."""


class Ticking:
    """Tells how many subjects have been looked at; says nothing of a check that is over at once."""

    def __init__(self) -> None:
        self._next = time.monotonic() + (FIRST_SECONDS if err.is_terminal else PLAIN_SECONDS)
        self._said = False

    def __call__(self, done: int, count: int) -> None:
        """Called after each subject."""
        over = done == count
        if over and self._said and err.is_terminal:
            err.file.write("\r\x1b[K")
        if over or time.monotonic() < self._next:
            return
        self._said = True
        if err.is_terminal:
            self._next = time.monotonic() + 0.1
            err.file.write(f"\r\x1b[K{done} of {count} subjects are looked at")
            err.file.flush()
        else:
            self._next = time.monotonic() + PLAIN_SECONDS
            err.print(f"{done} of {count} subjects are looked at", markup=False)
