"""The queue of one submission's jobs, as a lane uses it: lease a job, keep the lease, report how it goes and ends.

It is a store of rows bound to a submission and a clock. Every call may be repeated, for its answer may get lost on the
way. Knows no cluster: a lane on another machine calls it through `cluster.remote_queue`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lorafleet.bundle.ports import RunEntry
from lorafleet.config import Resources
from lorafleet_jobs.jobqueue import job_state
from lorafleet_jobs.jobqueue.asha import Verdict
from lorafleet_jobs.jobqueue.asha_scores import ScoreBook
from lorafleet_jobs.jobqueue.job_state import Ending, FailureKind, JobRow, State
from lorafleet_jobs.jobqueue.lane_rows import LaneBook
from lorafleet_jobs.jobqueue.outbox import end_entries
from lorafleet_jobs.jobqueue.policy import should_yield, workers_wanted
from lorafleet_jobs.jobqueue.store import JobStore, Telling, Transition, nothing
from lorafleet_jobs.jobqueue.tables import LaneRow
from lorafleet_jobs.jobspec import JobSpec


@dataclass(frozen=True)
class LaneConfig:
    """What a lane needs to know about itself and its submission."""

    name: str
    home: Path
    tracking_uri: str
    cpus: int
    device: str
    pack: int = 1
    """How many jobs it trains at once."""
    resources: Resources = field(default_factory=Resources)
    """As the manifest has them; `cpus`, `device` and `pack` were derived from them."""
    rank: int = 0
    """The highest LoRA rank of the submission's jobs."""
    spans: Path | None = None
    """The file in which it records what it spends its time on."""


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
    def checkpoint_name(self) -> str:
        """The name of the folder of its checkpoints."""
        return job_state.checkpoint_name(self.spec.id, self.seed_shift)


@dataclass(frozen=True)
class DeviceUse:
    """How much of its device a lane uses."""

    device: str
    """The GPU's name, or `CPU`."""
    busy: float | None
    """Percent, None if that cannot be told."""
    used_mib: int
    total_mib: int


class SteadyClock:
    """Seconds since the epoch that go forward evenly, so that no lease runs out because somebody set the clock."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = wall() - steady()

    def __call__(self) -> float:
        """The present time."""
        return self._offset + self._steady()


class JobQueue:
    """The jobs of one submission.

    Answers of False or None to a call about a job mean that the caller's attempt no longer holds the job.
    """

    def __init__(
        self,
        url: str,
        submission: str,
        *,
        clock: Callable[[], float] | None = None,
        workers: int | None = None,
        driver: str | None = None,
    ) -> None:
        """Opens the queue in the database at `url`. Raises UnreachableError.

        With `workers` it has only the jobs that so many workers share. With `driver`, the token of a driver's lease,
        it is empty as soon as that driver no longer holds the submission.
        """
        self.submission = submission
        self._store = JobStore(url)
        self._scores = ScoreBook(self._store.engine)
        self._lanes = LaneBook(self._store.engine)
        self._clock = clock or SteadyClock()
        self._workers, self._driver = workers, driver
        self._max_running = self._store.submission(submission).resources.max_running

    def open(self, lane: str) -> None:
        """Begins a life of a lane: what an earlier life of it held is queued again, for that life is over."""
        self._store.lose_lane(self.submission, lane, self._clock())

    def report_lane(self, lane: str, host: str, doing: str, use: DeviceUse) -> None:
        """Notes what a lane does and how much of its device it uses."""
        row = LaneRow(
            self.submission, lane, host, use.device, doing, use.busy, use.used_mib, use.total_mib, self._clock()
        )
        self._lanes.put(row)

    def lease(self, lane: str, holding: Collection[str]) -> Lease | None:
        """Leases one more job to a lane that holds the jobs `holding`; None if there is none for it now."""
        if self._is_taken_over():
            return None
        row = self._store.lease(self.submission, lane, self._clock(), holding, self._max_running, self._workers)
        return None if row is None else _lease(row)

    def is_drained(self) -> bool:
        """Whether every job has ended, or another driver has taken the submission over."""
        if self._store.is_drained(self.submission) or self._is_taken_over():
            return True
        return self._workers is not None and self._workers not in workers_wanted(self._store.jobs(self.submission))

    def should_yield(self, uptime: float) -> bool:
        """Whether a lane that has been up for `uptime` seconds should leave its place to another submission."""
        cluster = self._store.submission(self.submission).cluster
        if cluster is None:
            return False
        claims = {claim.submission: claim for claim in self._store.claims(cluster, self._clock())}
        mine = claims.pop(self.submission, None)
        return mine is not None and should_yield(mine, list(claims.values()), uptime)

    def heartbeat(self, job: str, attempt: int) -> bool:
        """Prolongs the lease of a job."""
        now = self._clock()
        return self._change(job, lambda row: job_state.heartbeat(row, attempt, now)) is not None

    def progress(self, job: str, attempt: int, step: int, loss: float | None) -> bool:
        """Notes the step that a job has reached and the loss there, and prolongs its lease."""
        now = self._clock()
        return self._change(job, lambda row: job_state.progress(row, attempt, step, loss, now)) is not None

    def record(self, job: str, attempt: int, entries: Sequence[RunEntry]) -> bool:
        """Keeps numbers and pictures of a job for MLflow; each is recorded once, whoever says it how often."""
        return self._change(job, lambda row: job_state.held(row, attempt), lambda *_: entries) is not None

    def report(self, job: str, attempt: int, rung: int, score: float) -> Verdict | None:
        """Reports a job's score at a rung of its sweep; the verdict says whether the job goes on beyond the rung."""
        row = self._store.find_job(self.submission, job)
        if not self.progress(job, attempt, rung, row.loss):
            return None
        return self._scores.verdict(row.spec, attempt, rung, score)

    def finish(
        self, job: str, attempt: int, state: Ending, version: int | None, error: str | None, unchanged: bool = False
    ) -> bool:
        """Ends a job: with the version that was published, or with the reason why there is none.

        `unchanged` says of a version that it has learned nothing visible.
        """
        end = partial(
            job_state.finish, attempt=attempt, state=state, now=self._clock(), version=version, error=error,
            kind="unchanged" if unchanged else None,
        )  # fmt: skip
        return self._change(job, end, lambda _, ended: end_entries(ended)) is not None

    def fail(self, job: str, attempt: int, kind: FailureKind, reason: str, packed: int) -> State | None:
        """Reports a failure in a pack of `packed` jobs; returns what became of the job: queued again, or failed."""
        failure = partial(job_state.fail, attempt=attempt, kind=kind, reason=reason, now=self._clock(), packed=packed)
        row = self._change(job, failure, lambda _, row: _end_of_run(row))
        return None if row is None else row.state

    def give_back(self, job: str, attempt: int) -> bool:
        """Queues a job again whose lane has to leave, through no fault of the job's."""
        now = self._clock()
        return self._change(job, lambda row: job_state.give_back(row, now, attempt)) is not None

    def _change(self, job: str, transition: Transition, entries: Telling = nothing) -> JobRow | None:
        return self._store.change(self.submission, job, transition, entries, self._clock())

    def _is_taken_over(self) -> bool:
        if self._driver is None:
            return False
        driver = self._store.driver(self.submission)
        return driver is None or driver.token != self._driver


def _end_of_run(row: JobRow) -> list[RunEntry]:
    """After a failure: the end of the job's run, if the job has failed or goes on with another seed in another run."""
    ended = row.state == "failed" or row.run_id is None
    return end_entries(replace(row, state="failed")) if ended else []


def _lease(row: JobRow) -> Lease:
    assert row.run_id is not None, row.id  # a job without a run is not free
    return Lease(
        spec=job_state.trained_spec(row),
        attempt=row.attempts,
        run_id=row.run_id,
        pack_limit=row.pack_limit,
        alone_until=job_state.alone_until(row),
        seed_shift=row.seed_shift,
    )
