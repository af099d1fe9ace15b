"""Who hands out a submission's jobs: the store with a clock and one submission in mind. Knows no cluster.

A lane asks for work, says how far it is, and says how it ended; every answer False means "this job is no longer yours".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.rows import Ending
from lorafleet_jobs.store import JobStore


@dataclass(frozen=True)
class LaneSetup:
    """What a lane is told."""

    name: str
    home: Path
    tracking_uri: str
    cpus: int
    device: str
    pack: int = 1
    """How many jobs it trains at once."""


@dataclass(frozen=True)
class Lease:
    """A job in a lane's hands."""

    spec: JobSpec
    attempt: int
    run_id: str
    """Of the MLflow run that was opened for the job."""


class Desk(Protocol):
    """What a lane asks of whoever hands out jobs."""

    def open(self, lane: str) -> None:
        """Takes back what an earlier life of this lane held."""

    def lease(self, lane: str) -> Lease | None:
        """The next job, or None if none is free now."""

    def is_drained(self) -> bool:
        """Whether every job has ended."""

    def heartbeat(self, job: str, attempt: int) -> bool:
        """Still at it."""

    def progress(self, job: str, attempt: int, step: int, loss: float) -> bool:
        """So far."""

    def finish(self, job: str, attempt: int, state: Ending, version: int | None, error: str | None) -> bool:
        """How it ended."""


class StoreDesk:
    """The desk itself."""

    def __init__(self, url: str, submission: str, clock: Callable[[], float] = time.time) -> None:
        self._store = JobStore(url)
        self._submission = submission
        self._clock = clock

    def open(self, lane: str) -> None:
        """Takes back what an earlier life of this lane held."""
        self._store.release(self._submission, self._clock(), lane)

    def lease(self, lane: str) -> Lease | None:
        """The next job, or None if none is free now."""
        row = self._store.lease(self._submission, lane, self._clock())
        if row is None:
            return None
        assert row.run_id is not None, row.id  # runs are opened before lanes
        return Lease(row.spec, row.attempts, row.run_id)

    def is_drained(self) -> bool:
        """Whether every job has ended."""
        return self._store.is_drained(self._submission)

    def heartbeat(self, job: str, attempt: int) -> bool:
        """Still at it."""
        return self._store.heartbeat(self._submission, job, attempt, self._clock())

    def progress(self, job: str, attempt: int, step: int, loss: float) -> bool:
        """So far."""
        return self._store.progress(self._submission, job, attempt, step, loss, self._clock())

    def finish(self, job: str, attempt: int, state: Ending, version: int | None, error: str | None) -> bool:
        """How it ended."""
        return self._store.finish(
            self._submission, job, attempt, state, self._clock(), version=version, error=error
        )  # fmt: skip
