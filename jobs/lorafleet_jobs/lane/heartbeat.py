"""Keeps the lease of a job alive while it is trained, and reports its steps.

Knows the queue and one lease; refuses to know what is trained.
"""

from __future__ import annotations

import logging
import time
from threading import Event, Thread

from lorafleet.errors import UnreachableError
from lorafleet_jobs.jobqueue.asha import Verdict
from lorafleet_jobs.jobqueue.job_queue import JobQueue, Lease
from lorafleet_jobs.jobqueue.job_state import LEASE_SECONDS
from lorafleet_jobs.train import Cancelled

HEARTBEAT_SECONDS = LEASE_SECONDS / 6
PROGRESS_SECONDS = 0.5
"""Between two reports of a job's step."""
log = logging.getLogger(__name__)


class Heartbeat:
    """Keeps a lease alive from a thread of its own, and raises in the training's thread once it is lost."""

    def __init__(self, queue: JobQueue, lease: Lease) -> None:
        self._queue = queue
        self._job, self._attempt, self._steps = lease.spec.id, lease.attempt, lease.spec.steps
        self._stop, self._lost = Event(), Event()
        self._reported = 0.0
        self._thread = Thread(target=self._beat, name=f"heartbeat-{self._job}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the heartbeats; the lease expires by itself."""
        self._stop.set()
        self._thread.join()

    def on_start(self, step: int) -> None:
        """Reports the step from which training starts."""
        self._queue.progress(self._job, self._attempt, step, None)

    def on_step(self, step: int, loss: float) -> None:
        """Reports a step now and then; raises Cancelled once the job is no longer this attempt's."""
        self.check_lost()
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS or step == self._steps:
            self._reported = now
            if not self._queue.progress(self._job, self._attempt, step, loss):
                raise Cancelled

    def check_lost(self) -> None:
        """Raises Cancelled if a heartbeat has found that the job is no longer this attempt's; asks nobody."""
        if self._lost.is_set():
            raise Cancelled

    def compare(self, rung: int, score: float) -> Verdict:
        """Whether the job goes on beyond a rung; raises Cancelled if it is no longer this attempt's."""
        verdict = self._queue.report(self._job, self._attempt, rung, score)
        if verdict is None:
            raise Cancelled
        return verdict

    def check(self) -> None:
        """Asks the queue now; raises Cancelled if the job is no longer this attempt's."""
        if not self._queue.heartbeat(self._job, self._attempt):
            raise Cancelled

    def _beat(self) -> None:
        try:
            while not self._stop.wait(HEARTBEAT_SECONDS):
                if not self._queue.heartbeat(self._job, self._attempt):
                    return
        except UnreachableError as problem:
            log.warning("job %s: its lease is given up: %s", self._job, problem)
        finally:
            self._lost.set()
