"""Signs of life of a lane: a process that hangs keeps its heartbeat, so it must notice by itself that nothing moves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event, Thread, Timer

LOOK_SECONDS = 1.0
LAST_WORDS_SECONDS = 30.0
EXIT_CODE = 70


class LifeSigns:
    """When the lane last moved, and what it was about to do."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._doing, self._since = "starting", clock()

    def now(self, doing: str) -> None:
        """It moves: the next thing begins."""
        self._doing, self._since = doing, self._clock()

    def stalled(self) -> str | None:
        """Why it is taken to hang, in one line; None if it is not."""
        silent = self._clock() - self._since
        return f"hung for {silent:.0f} s while {self._doing}" if silent > self.limit else None


def die(_reason: str) -> None:
    """Ends this process at once, without asking whoever hangs."""
    os._exit(EXIT_CODE)


class Watchdog:
    """Looks at the signs of life from a thread of its own, and ends the process when there are none.

    `last_words` is told why; it has half a minute.
    """

    def __init__(self, signs: LifeSigns, last_words: Callable[[str], None], then: Callable[[str], None] = die) -> None:
        self._signs, self._last_words, self._then = signs, last_words, then
        self._stop = Event()
        self._thread = Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No longer looks."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            reason = self._signs.stalled()
            if reason is not None:
                alarm = Timer(LAST_WORDS_SECONDS, self._then, (reason,))
                alarm.daemon = True
                alarm.start()
                try:
                    self._last_words(reason)
                finally:
                    alarm.cancel()
                    self._then(reason)
                return
