"""Sends what waits in the outbox to MLflow: from a thread while lanes work, and once more at a submission's end.

An outage delays what waits and stops nothing: pauses grow while MLflow is away, and what is left at the end is sent by
the next driver on the same database. Knows the outbox and the tracking; refuses to know jobs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from lorafleet.errors import first_line
from lorafleet_jobs.jobqueue.outbox import Outbox

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking

LINGER_SECONDS = 1.0
"""Between two rounds, so that numbers recorded together are sent together."""
LONGEST_PAUSE_SECONDS = 60.0
FLUSH_SECONDS = 10.0
"""How long a submission's end waits for MLflow."""
TRANSIENT = (SQLAlchemyError, OSError)  # of which UnreachableError is one
"""MLflow is away, the database restarts, a disk is full: what waits is tried again."""
log = logging.getLogger(__name__)


def send_waiting(outbox: Outbox, tracking: MlflowTracking, submissions: Collection[str]) -> None:
    """Sends what the runs of some submissions have waiting; a run that fails does not hold up the others.

    Raises UnreachableError, or OSError where artifacts cannot be written: the first run's, after every run was tried;
    at once if nothing could be sent.
    """
    failure: OSError | None = None
    sent = 0
    for run_id in outbox.runs_waiting(submissions):
        try:
            while entries := outbox.waiting(run_id):
                tracking.send(run_id, entries)
                outbox.mark_sent(run_id, entries)
                sent += 1
        except OSError as problem:
            if not sent:
                raise
            failure = failure or problem
    if failure is not None:
        raise failure


class OutboxSender:
    """The thread that sends what one submission records. Started when it is made; ends with `stop` or its process."""

    def __init__(
        self,
        outbox: Outbox,
        tracking: MlflowTracking,
        submission: str,
        sleep: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._outbox, self._tracking, self._submission, self._sleep = outbox, tracking, submission, sleep
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sends nothing more; a call under way is waited for, for a while."""
        self._stopped.set()
        self._thread.join(FLUSH_SECONDS)

    def _run(self) -> None:
        pause = LINGER_SECONDS
        while not self._sleep(self._stopped, pause):
            try:
                send_waiting(self._outbox, self._tracking, [self._submission])
                pause = LINGER_SECONDS
            except TRANSIENT as problem:
                if pause == LINGER_SECONDS:
                    log.warning("%s; numbers and pictures wait", first_line(problem))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def flush(
    outbox: Outbox, tracking: MlflowTracking, submissions: Collection[str], seconds: float = FLUSH_SECONDS
) -> int:
    """Sends what some submissions have waiting, trying again for `seconds`; returns how many entries still wait."""
    deadline = time.monotonic() + seconds
    while outbox.count(submissions):
        try:
            send_waiting(outbox, tracking, submissions)
        except TRANSIENT as problem:
            if time.monotonic() >= deadline:
                log.warning("%s", first_line(problem))
                break
            time.sleep(LINGER_SECONDS)
    return outbox.count(submissions)
