"""Ends a lane's process that hangs: its heartbeat thread would keep the lease alive, so the lane must notice by itself.

Knows how long ago the lane last began something; refuses to know what a lane does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Event, Thread, Timer

CHECK_SECONDS = 1.0
LAST_WORDS_SECONDS = 30.0
"""Time for reporting why the process is ended; a report that hangs too is not waited for any longer."""
EXIT_CODE = 70


class Activity:
    """What a lane does at the moment, and since when."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` is in seconds: the longest that one activity may take."""
        self.limit = limit
        self._clock = clock
        self._current, self._since = "starting", clock()

    @property
    def current(self) -> str:
        """What the lane does now."""
        return self._current

    def begin(self, activity: str) -> None:
        """Notes that the lane begins something, such as "publishing job 1f"."""
        self._current, self._since = activity, self._clock()

    def stalled(self) -> str | None:
        """Why the lane is taken to hang, in one line; None if it is not."""
        silent = self._clock() - self._since
        return f"hung for {silent:.0f} s while {self._current}" if silent > self.limit else None


def die(_reason: str) -> None:
    """Ends this process at once, without waiting for the thread that hangs."""
    os._exit(EXIT_CODE)


class Watchdog:
    """Checks the lane's activity from a thread of its own, and ends the process if it hangs.

    `last_words` is called with the reason before that, for at most LAST_WORDS_SECONDS.
    """

    def __init__(
        self, activity: Activity, last_words: Callable[[str], None], then: Callable[[str], None] = die
    ) -> None:
        self._activity, self._last_words, self._then = activity, last_words, then
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(CHECK_SECONDS):
            reason = self._activity.stalled()
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
