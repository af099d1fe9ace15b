"""One thread a process that brings what its trackers hold to MLflow, so that no training waits for a server.

Knows when to send and when to wait; what is sent is the trackers' own affair.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from mlflow.exceptions import MlflowException

from lorafleet.tracking.client import REFUSED, knock

LINGER_SECONDS = 1.0
"""Between two rounds: what is said in this time shares a call."""
LONGEST_PAUSE_SECONDS = 30.0
"""Between two attempts in an outage; the first comes after LINGER_SECONDS, each later one after twice as long."""
log = logging.getLogger(__name__)


class Outbox(Protocol):
    """What the sender asks of a tracker."""

    @property
    def waiting(self) -> int:
        """Entries that are not with MLflow yet."""

    def deliver(self) -> bool:
        """Sends what waits; False if another process is sending for the run. Raises MlflowException or OSError."""

    def refuse(self, problem: Exception) -> None:
        """Leaves out what waits: MLflow will never take it."""


class Sender:
    """The thread, started when there is something to send. It ends with the process, whatever still waits."""

    def __init__(self, uri: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._uri, self._clock = uri, clock
        self._changed = threading.Condition()
        self._outboxes: list[Outbox] = []
        self._thread: threading.Thread | None = None
        self._urgent = self._closed = False
        self._next = self._pause = 0.0
        self._begun = self._failed = 0
        """Numbers of the last round begun, and of the last that failed; 0 for none."""

    def wake(self, outbox: Outbox) -> None:
        """Something waits in `outbox`."""
        with self._changed:
            self._start(outbox)
            self._changed.notify_all()

    def flush(self, outbox: Outbox, seconds: float) -> bool:
        """Sends at once and waits; False if something still waits after an attempt has failed, or after `seconds`."""
        with self._changed:
            if outbox.waiting:
                self._start(outbox)
            self._urgent = True
            goal = self._begun + 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not outbox.waiting or self._failed >= goal or self._closed, seconds)
        return not outbox.waiting

    def forget(self, outbox: Outbox) -> None:
        """Sends nothing more of it."""
        with self._changed:
            self._outboxes = [one for one in self._outboxes if one is not outbox]

    def close(self, seconds: float) -> None:
        """Sends nothing more; a call under way has `seconds` to end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    def _start(self, outbox: Outbox) -> None:
        if not any(one is outbox for one in self._outboxes):
            self._outboxes.append(outbox)
        if not self._closed and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (todo := self._wait_for_work()) is not None:
            self._round(todo)

    def _wait_for_work(self) -> list[Outbox] | None:
        """What has something waiting, once it is time to send; None when there will be no more."""
        with self._changed:
            while not self._closed:
                todo = [one for one in self._outboxes if one.waiting]
                rest = self._next - self._clock()
                if todo and (self._urgent or rest <= 0):
                    self._begun += 1
                    self._urgent = False
                    return todo
                self._changed.wait(rest if todo else None)
            return None

    def _round(self, todo: list[Outbox]) -> None:
        for outbox in todo:
            try:
                if self._pause:
                    knock(self._uri)
                outbox.deliver()
            except (MlflowException, OSError) as problem:
                if isinstance(problem, MlflowException) and problem.error_code in REFUSED:
                    outbox.refuse(problem)
                else:
                    self._fail(outbox, problem)
                    return
            with self._changed:
                self._pause = 0.0
                self._next = self._clock() + LINGER_SECONDS
                self._changed.notify_all()

    def _fail(self, outbox: Outbox, problem: Exception) -> None:
        if not self._pause:
            said = (str(problem).splitlines() or [type(problem).__name__])[0][:200]
            log.warning("MLflow at %s does not answer (%s); numbers and pictures wait", self._uri, said)
        with self._changed:
            self._pause = min(max(2 * self._pause, LINGER_SECONDS), LONGEST_PAUSE_SECONDS)
            self._next = self._clock() + self._pause
            self._failed = self._begun
            self._outboxes.sort(key=lambda one: one is outbox)  # last, in case that only this one fails
            self._changed.notify_all()
