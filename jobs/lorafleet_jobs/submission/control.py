"""What is done to a submission from outside: cancel, queue again, wait for its end.

All of it goes through the rows, where whoever drives the submission finds it. Without a driver what it would do is done
here, or left to a new one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lorafleet.bundle.ports import RunEnd
from lorafleet.console import note
from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.status import Submission, load_submission, open_store
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.lane.job_log import JobLog
from lorafleet_jobs.submission.driver_lease import driver_lease, has_driver
from lorafleet_jobs.submission.follow import POLL_SECONDS
from lorafleet_jobs.submission.mlflow_runs import close_runs
from lorafleet_jobs.submission.submit import start_driver


@dataclass(frozen=True)
class Retried:
    """What `retry` did."""

    queued: tuple[JobRow, ...]
    driver_started: bool


def cancel(home: Home, submission: str, wanted: Sequence[str] = ()) -> tuple[JobRow, ...]:
    """Cancels the jobs that have not ended, or of those that are named; returns the ones it ended.

    Their lanes let go at the next step and train the others on. Raises NotFoundError before anything is changed.
    """
    store = open_store(home)
    jobs = [row.id for row in _named(store, submission, wanted)]
    with driver_lease(store, submission) as lease:
        ended = tuple(row for job in jobs for row in store.cancel(submission, time.time(), job))
        for row in ended:
            JobLog(home.job_log(submission, row.id)).append("cancelled")
        if lease is not None and ended:
            _close_runs(home, store, submission, ended)
    return ended


def retry(
    home: Home, submission: str, wanted: Sequence[str] = (), *, only_failed: bool = False, address: str | None = None
) -> Retried:
    """Queues failed and cancelled jobs again, or of those that are named, and sees to it that somebody drives them.

    A submission that was left half-way goes on. Raises NotFoundError before anything is changed, and UnreachableError
    if no driver starts.
    """
    store = open_store(home)
    states = ("failed",) if only_failed else ("failed", "cancelled")
    again = [row.id for row in _named(store, submission, wanted) if row.state in states]
    queued = tuple(row for job in again for row in store.retry(submission, time.time(), job))
    for row in queued:
        JobLog(home.job_log(submission, row.id)).append("queued again")
    needs_driver = not store.is_drained(submission) and not has_driver(store, submission)
    if needs_driver:
        start_driver(submission, home, address)
    return Retried(queued, needs_driver)


def wait_for(home: Home, submission: str) -> Submission:
    """Waits until nobody drives a submission (any more); returns how it stands then."""
    store = open_store(home)
    while has_driver(store, submission):
        time.sleep(POLL_SECONDS)
    return load_submission(home, submission)


def _named(store: JobStore, submission: str, wanted: Sequence[str]) -> list[JobRow]:
    return [store.find_job(submission, name) for name in wanted] if wanted else store.jobs(submission)


def _close_runs(home: Home, store: JobStore, submission: str, cancelled: Sequence[JobRow]) -> None:
    from lorafleet.tracking import MlflowTracking

    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    if store.is_drained(submission):
        close_runs(store, tracking, submission)
        return
    try:
        for row in cancelled:
            if row.run_id is not None:
                tracking.finish_if_open(row.run_id, RunEnd("KILLED", row.error))
    except UnreachableError as problem:
        note(str(problem))
