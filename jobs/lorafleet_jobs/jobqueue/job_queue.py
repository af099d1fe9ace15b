"""Who hands out a submission's jobs: the store with a clock and one submission in mind. Knows no cluster.

A lane asks for work, says how far it is, and says how it ended; every answer False or None means "this job is no longer
yours". Everything may be said twice, for an answer may get lost on its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lorafleet.config import Resources
from lorafleet_jobs.jobqueue import job_state as rows
from lorafleet_jobs.jobqueue.asha import Verdict
from lorafleet_jobs.jobqueue.asha_scores import ScoreBook
from lorafleet_jobs.jobqueue.job_state import Ending, FailureKind, JobRow, State
from lorafleet_jobs.jobqueue.policy import gives_way, workers_wanted
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobspec import JobSpec


@dataclass(frozen=True)
class LaneConfig:
    """What a lane is told."""

    name: str
    home: Path
    tracking_uri: str
    cpus: int
    device: str
    pack: int = 1
    """How many jobs it trains at once."""
    resources: Resources = field(default_factory=Resources)
    """As the manifest has them; what is said above was made of them."""
    rank: int = 0
    """The highest of the submission's jobs."""
    spans: Path | None = None
    """Where it records what it spends its time on."""


@dataclass(frozen=True)
class Lease:
    """A job in a lane's hands."""

    spec: JobSpec
    attempt: int
    run_id: str
    """Of the MLflow run that was opened for the job."""
    pack_limit: int | None = None
    """Among how many jobs it may be trained, itself included; None for any number."""
    alone_until: int = 0
    """The step up to which it is trained alone."""
    seed_shift: int = 0

    @property
    def key(self) -> str:
        """Names what is kept of it half-way."""
        return rows.half_way_name(self.spec.id, self.seed_shift)


class SteadyClock:
    """Seconds since the epoch that go forward evenly, so that no lease runs out because somebody set the clock."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = wall() - steady()

    def __call__(self) -> float:
        """Now."""
        return self._offset + self._steady()


class JobQueue(Protocol):
    """What a lane asks of whoever hands out jobs."""

    def open(self, lane: str) -> None:
        """Takes back what an earlier life of this lane held: it died."""

    def lease(self, lane: str, holding: Collection[str]) -> Lease | None:
        """One more job for a lane that holds these, or None if none is free for it now."""

    def is_drained(self) -> bool:
        """Whether every job has ended."""

    def gives_way(self, tenure: float) -> bool:
        """Whether a lane that has been at work for `tenure` seconds should leave its place to another submission."""

    def heartbeat(self, job: str, attempt: int) -> bool:
        """Still at it."""

    def progress(self, job: str, attempt: int, step: int, loss: float | None) -> bool:
        """So far."""

    def compare(self, job: str, attempt: int, rung: int, score: float) -> Verdict | None:
        """Whether it goes on beyond a rung of its sweep, having this score there."""

    def finish(self, job: str, attempt: int, state: Ending, version: int | None, error: str | None) -> bool:
        """How it ended."""

    def fail(self, job: str, attempt: int, kind: FailureKind, reason: str, packed: int) -> State | None:
        """It failed among `packed` jobs, itself included; returns what became of it: queued again, or failed."""

    def give_back(self, job: str, attempt: int) -> bool:
        """The lane has to leave it, through no fault of the job's."""


class LocalJobQueue:
    """The desk itself."""

    def __init__(
        self, url: str, submission: str, clock: Callable[[], float] | None = None, workers: int | None = None
    ) -> None:
        """With `workers` it knows only of the jobs that so many workers share."""
        self._workers = workers
        self._store = JobStore(url)
        self._scores = ScoreBook(self._store.engine)
        self._submission = submission
        self._clock = clock or SteadyClock()
        self._max_running = self._store.submission(submission).resources.max_running

    def open(self, lane: str) -> None:
        """Takes back what an earlier life of this lane held: it died."""
        self._store.lose(self._submission, lane, self._clock())

    def lease(self, lane: str, holding: Collection[str]) -> Lease | None:
        """One more job for a lane that holds these, or None if none is free for it now."""
        row = self._store.lease(self._submission, lane, self._clock(), holding, self._max_running, self._workers)
        return None if row is None else _lease(row)

    def is_drained(self) -> bool:
        """Whether every job has ended."""
        if self._workers is None or self._store.is_drained(self._submission):
            return self._store.is_drained(self._submission)
        return self._workers not in workers_wanted(self._store.jobs(self._submission))

    def gives_way(self, tenure: float) -> bool:
        """Whether a lane that has been at work for `tenure` seconds should leave its place to another submission."""
        cluster = self._store.submission(self._submission).cluster
        claims = {} if cluster is None else {one.submission: one for one in self._store.claims(cluster, self._clock())}
        mine = claims.pop(self._submission, None)
        return mine is not None and gives_way(mine, list(claims.values()), tenure)

    def heartbeat(self, job: str, attempt: int) -> bool:
        """Still at it."""
        return self._store.heartbeat(self._submission, job, attempt, self._clock())

    def progress(self, job: str, attempt: int, step: int, loss: float | None) -> bool:
        """So far."""
        return self._store.progress(self._submission, job, attempt, step, loss, self._clock())

    def compare(self, job: str, attempt: int, rung: int, score: float) -> Verdict | None:
        """Whether it goes on beyond a rung of its sweep, having this score there."""
        row = self._store.find_job(self._submission, job)
        if not self._store.progress(self._submission, job, attempt, rung, row.loss, self._clock()):
            return None
        return self._scores.verdict(row.spec, attempt, rung, score)

    def finish(self, job: str, attempt: int, state: Ending, version: int | None, error: str | None) -> bool:
        """How it ended."""
        return self._store.finish(
            self._submission, job, attempt, state, self._clock(), version=version, error=error
        )  # fmt: skip

    def fail(self, job: str, attempt: int, kind: FailureKind, reason: str, packed: int) -> State | None:
        """It failed among `packed` jobs, itself included; returns what became of it: queued again, or failed."""
        row = self._store.fail(self._submission, job, attempt, kind, reason, self._clock(), packed)
        return None if row is None else row.state

    def give_back(self, job: str, attempt: int) -> bool:
        """The lane has to leave it, through no fault of the job's."""
        now = self._clock()
        return self._store.change(self._submission, job, lambda row: rows.give_back(row, now, attempt)) is not None


def _lease(row: JobRow) -> Lease:
    assert row.run_id is not None, row.id  # a job without a run is not free
    return Lease(
        rows.trained_spec(row), row.attempts, row.run_id, row.pack_limit, rows.alone_until(row), row.seed_shift
    )  # fmt: skip
