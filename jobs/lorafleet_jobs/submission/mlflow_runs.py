"""A submission's runs in MLflow: opened by its driver and nobody else, and closed as its rows say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorafleet.bundle.bundle import CARD
from lorafleet.bundle.ports import RunEnd
from lorafleet.console import note
from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.job_state import ENDED, JobRow
from lorafleet_jobs.jobqueue.outbox import Outbox, run_end
from lorafleet_jobs.jobqueue.point_names import labels
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.submission.driver_lease import has_driver
from lorafleet_jobs.submission.job_info import job_info
from lorafleet_jobs.submission.outbox_sender import flush

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking


def open_runs(store: JobStore, tracking: MlflowTracking, submission: str, home: Home) -> None:
    """Opens the runs that a submission and its jobs do not have yet. Raises UnreachableError.

    A job whose adapter lies in the home, trained for another submission, has the run that trained it.
    """
    row, jobs = store.submission(submission), store.jobs(submission)
    parent = row.run_id
    if parent is None:
        params = {"base": row.base, "jobs": str(len(jobs)), "lanes": str(row.lanes)}
        parent = tracking.start_submission(row.name, submission, params, row.manifest)
        store.set_run(submission, None, parent)
    names, waiting = labels(jobs), [job for job in jobs if needs_run(job)]
    there = _trained_earlier(store, waiting, home)
    for job in waiting:
        run_id = there.get(job.id)
        if run_id is None or not tracking.has_run(run_id):
            run_id = tracking.start_job(parent, job_info(job, names[job.id]))
        store.set_run(submission, job.id, run_id)


def _trained_earlier(store: JobStore, jobs: Sequence[JobRow], home: Home) -> dict[str, str]:
    """The runs of other submissions that made what lies in the home of these jobs, by job."""
    kept = [job.id for job in jobs if job.seed_shift == 0 and (home.bundles / job.id / CARD).is_file()]
    made = [row for row in store.with_ids(kept) if row.state == "succeeded"] if kept else []
    return {row.id: row.run_id for row in made if row.run_id is not None}


def needs_run(job: JobRow) -> bool:
    """Whether a job waits for a run to be opened: it is new, or tried with another seed."""
    return job.run_id is None and job.state not in ENDED


def close_runs(store: JobStore, tracking: MlflowTracking, submission: str) -> None:
    """Sends what waits in the outbox, closes the runs that nobody closed, links them; an outage is only noted.

    What other submissions left waiting that nobody drives any more is sent too.
    """
    row, jobs = store.submission(submission), store.jobs(submission)
    outbox = Outbox(store.engine)
    orphans = {other for other in outbox.submissions_waiting() if not has_driver(store, other)}
    if waiting := flush(outbox, tracking, {submission, *orphans}):
        note(f"{waiting} numbers and pictures wait for MLflow; the next submission's end sends them")
    if row.run_id is None:
        return
    try:
        tracking.reap(row.run_id, {job.run_id: run_end(job) for job in jobs if job.run_id})
        counts = {f"jobs/{state}": float(sum(job.state == state for job in jobs)) for state in sorted(ENDED)}
        tracking.log_metrics(row.run_id, 0, counts)
        done = counts["jobs/succeeded"] + counts["jobs/stopped"] + counts["jobs/forgotten"]
        tracking.finish(row.run_id, RunEnd("FINISHED" if done == len(jobs) else "FAILED"))
        tracking.link(row.run_id, {job.run_id: job.state for job in jobs if job.run_id})
    except UnreachableError as problem:
        note(str(problem))
