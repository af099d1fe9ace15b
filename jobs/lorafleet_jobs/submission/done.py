"""Which jobs of a plan are done already, so that nothing is trained for them again.

A job is done while what it made is there: its bundle in this home, or its version in the registry. Versions that were
deleted, on MLflow's page or by `adapters rm`, are noticed by the next submit of their manifest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from lorafleet.bundle.bundle import CARD
from lorafleet.console import note
from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet_jobs.intake.plan import Done
from lorafleet_jobs.jobqueue import job_state
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.status import open_store
from lorafleet_jobs.jobqueue.store import JobStore


def done_in(home: Home) -> Done:
    """What a home knows: jobs that have ended well in the same submission, and adapters that lie in the home.

    An adapter of another submission is published again without being trained. Makes nothing. The function that it
    returns asks MLflow only about jobs that succeeded and of which no bundle lies here, and then raises
    UnreachableError.
    """

    def done(submission: str, ids: Sequence[str]) -> set[str]:
        there = {job for job in ids if (home.bundles / job / CARD).is_file()}
        if home.database.exists() or "LORAFLEET_DATABASE_URL" in os.environ:
            rows = open_store(home).jobs(submission)
            there |= {row.id for row in rows if row.state == "stopped"}
            elsewhere = {row.id for row in rows if row.state == "succeeded"} - there
            there |= elsewhere & _published(home) if elsewhere else set()
        return there

    return done


def queue_unpublished(home: Home, store: JobStore, submission: str, now: float) -> list[JobRow]:
    """Queues the jobs again that succeeded and whose versions were deleted since; returns them.

    While MLflow does not answer nothing is queued, and a note says so.
    """
    made = [row for row in store.jobs(submission) if row.state == "succeeded"]
    if not made:
        return []
    from lorafleet.tracking import MlflowRegistry

    registry = MlflowRegistry(home.tracking_uri, home.adapter_cache)
    try:
        published = registry.published_jobs()
        lost = [row for row in made if row.id not in published]
        runs = {row.id: row.run_id if row.run_id and registry.has_run(row.run_id) else None for row in lost}
    except UnreachableError as problem:
        note(f"whether all its versions are still registered is not known: {problem}")
        return []
    for row in lost:
        store.change(submission, row.id, lambda row: job_state.unpublish(row, runs[row.id], now))
    return lost


def _published(home: Home) -> set[str]:
    from lorafleet.tracking import MlflowRegistry  # takes seconds, and is seldom needed

    return MlflowRegistry(home.tracking_uri, home.adapter_cache).published_jobs()
