"""How a submission stands: read from the rows, for people and as JSON. Imports neither ray nor mlflow."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from lorafleet.errors import NotFoundError
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.job_state import ENDED, JobRow, State, overall
from lorafleet_jobs.jobqueue.lane_rows import LaneBook
from lorafleet_jobs.jobqueue.point_names import point_names
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import LaneRow, SubmissionRow

SHOWN: tuple[State, ...] = ("running", "failed", "queued", "cancelled", "stopped", "succeeded", "forgotten")
"""In the order in which they are of interest."""


@dataclass(frozen=True)
class Submission:
    """A submission and its jobs at one moment."""

    row: SubmissionRow
    jobs: tuple[JobRow, ...]
    lanes: tuple[LaneRow, ...] = ()
    """Those that have said lately what they do."""

    @property
    def id(self) -> str:
        """Of the submission."""
        return self.row.id

    @property
    def state(self) -> State:
        """From its jobs' states."""
        return overall(job.state for job in self.jobs)

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended."""
        return sum(job.state not in ENDED for job in self.jobs)

    @property
    def has_ended(self) -> bool:
        """Whether every job has."""
        return self.unfinished == 0

    @cached_property
    def points(self) -> dict[str, str]:
        """For each job's id what tells it from others of its adapter, as `rank 16 lr 1e-4`; "" without a sweep."""
        return point_names(self.jobs)

    def label(self, job: JobRow) -> str:
        """A job's name for people: its adapter's, and where a sweep trains that more than once its point."""
        return f"{job.spec.adapter} {self.points[job.id]}".strip()

    def word(self, job: JobRow) -> str:
        """What a command calls a job."""
        return job.spec.adapter if self.label(job) == job.spec.adapter else job.id

    def as_json(self) -> dict[str, Any]:
        """The document of `submit` and `status`, and what a webhook is sent."""
        return {
            "submission": self.id,
            "name": self.row.name,
            "base": self.row.base,
            "state": self.state,
            "run_id": self.row.run_id,
            "jobs": [{**_job(job), "point": self.points[job.id]} for job in self.jobs],
            "lanes": [_lane(lane) for lane in self.lanes],
        }


def counts(jobs: Sequence[JobRow]) -> str:
    """`2 running, 1 failed, 45 queued`."""
    states = [job.state for job in jobs]
    return ", ".join(f"{states.count(state)} {state}" for state in SHOWN if state in states)


def failures(submission: Submission) -> list[str]:
    """Two lines for each job that failed: what happened, and the command that tells more."""
    return [
        line
        for job in submission.jobs
        if job.state == "failed"
        for line in (
            f"  {submission.label(job)}: {f'{job.kind}: ' if job.kind else ''}{job.error}",
            f"    lorafleet logs {submission.id} {submission.word(job)}",
        )
    ]


def _job(job: JobRow) -> dict[str, Any]:
    return {
        "id": job.id, "subject": job.spec.subject, "adapter": job.spec.adapter, "version": job.version,
        "state": job.state, "attempts": job.attempts, "step": job.step, "steps": job.steps,
        "loss": job.loss if job.loss is not None and math.isfinite(job.loss) else None,
        "run_id": job.run_id, "kind": job.kind, "error": job.error, "lane": job.lane,
    }  # fmt: skip


def _lane(row: LaneRow) -> dict[str, Any]:
    return {
        "lane": row.lane, "host": row.host, "device": row.device, "doing": row.doing, "busy_percent": row.busy,
        "used_mib": row.used_mib, "total_mib": row.total_mib,
    }  # fmt: skip


def store_url(home: Home) -> str:
    """The database of the job rows, as any process of this machine can be told it."""
    return home.database_url


def open_store(home: Home) -> JobStore:
    """The job rows of a home; made if missing, opened once a process."""
    return _store(store_url(home))


@lru_cache
def _store(url: str) -> JobStore:
    return JobStore(url)


def load_submission(home: Home, wanted: str | None) -> Submission:
    """A submission by its id, its name or a beginning of its id, or the newest. Makes nothing.

    Raises NotFoundError if there is none, AmbiguousError if several ids begin so.
    """
    if wanted is None:
        return load_submissions(home)[0]
    store = _existing_store(home)
    return _with_jobs(store, store.submission(wanted))


def load_submissions(home: Home) -> list[Submission]:
    """Every submission, the newest first. Makes nothing; NotFoundError if there is none."""
    store = _existing_store(home)
    rows = store.submissions()
    if not rows:
        raise NotFoundError(_nothing(home))
    return [_with_jobs(store, row) for row in rows]


def _with_jobs(store: JobStore, row: SubmissionRow) -> Submission:
    jobs = tuple(store.jobs(row.id))
    is_over = all(job.state in ENDED for job in jobs)
    return Submission(row, jobs, () if is_over else LaneBook(store.engine).living(row.id, time.time()))


def _existing_store(home: Home) -> JobStore:
    if "LORAFLEET_DATABASE_URL" not in os.environ and not home.database.exists():
        raise NotFoundError(_nothing(home))
    return open_store(home)


def _nothing(home: Home) -> str:
    return f"nothing was submitted under {home.root}; submit a manifest, or set LORAFLEET_HOME"
