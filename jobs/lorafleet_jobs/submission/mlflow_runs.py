"""A submission's runs in MLflow: opened by its driver and nobody else, and closed as its rows say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lorafleet.console import note
from lorafleet.errors import UnreachableError
from lorafleet_jobs.jobqueue.job_state import ENDED, JobRow, State, trained_spec
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.lane.publish import stopped_tags

if TYPE_CHECKING:
    from lorafleet.tracking import JobInfo, MlflowTracking, RunEnd, Status

STATUS: dict[State, Status] = {
    "succeeded": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "cancelled": "KILLED",
}  # fmt: skip


def open_runs(store: JobStore, tracking: MlflowTracking, submission: str) -> None:
    """Opens the runs that a submission and its jobs do not have yet. Raises UnreachableError."""
    row, jobs = store.submission(submission), store.jobs(submission)
    parent = row.run_id
    if parent is None:
        params = {"base": row.base, "jobs": str(len(jobs)), "lanes": str(row.lanes)}
        parent = tracking.start_submission(row.name, submission, params, row.manifest)
        store.set_run(submission, None, parent)
    for job in jobs:
        if needs_run(job):
            store.set_run(submission, job.id, tracking.start_job(parent, _job_info(job)))


def needs_run(job: JobRow) -> bool:
    """Whether a job waits for a run to be opened: it is new, or tried with another seed."""
    return job.run_id is None and job.state not in ENDED


def close_runs(store: JobStore, tracking: MlflowTracking, submission: str, spool: Path) -> None:
    """Sends what dead lanes left in the spool, closes what nobody closed, links the runs; an outage is only noted."""
    row, jobs = store.submission(submission), store.jobs(submission)
    if waiting := tracking.replay(spool):
        note(f"{waiting} numbers and pictures wait in {spool} for MLflow; the next submission's end sends them")
    try:
        if row.run_id is not None:
            ends = {job.run_id: _run_end(job) for job in jobs if job.run_id}
            tracking.reap(row.run_id, ends)
            counts = {f"jobs/{state}": float(sum(job.state == state for job in jobs)) for state in STATUS}
            tracking.job_tracker(row.run_id).metrics(0, counts)
            done = counts["jobs/succeeded"] + counts["jobs/stopped"]
            tracking.finish(row.run_id, "FINISHED" if done == len(jobs) else "FAILED")
            tracking.link(row.run_id)
    except UnreachableError as problem:
        note(str(problem))


def _run_end(job: JobRow) -> RunEnd:
    from lorafleet.tracking import RunEnd

    if job.state == "stopped":
        return RunEnd(STATUS[job.state], tags=stopped_tags(job.step, job.error or ""))
    return RunEnd(STATUS.get(job.state, "RUNNING"), job.error)


def _job_info(job: JobRow) -> JobInfo:
    from lorafleet.tracking import JobInfo

    spec = trained_spec(job)
    name = f"{spec.adapter}-{spec.id[:6]}" + (f"-seed{job.seed_shift}" if job.seed_shift else "")
    return JobInfo(
        name=name, job_id=spec.id, subject=spec.subject, adapter=spec.adapter,
        base=spec.base, steps=spec.steps, recipe=spec.recipe, folder=spec.folder,
        images=len(spec.images), dataset_fingerprint=spec.dataset_fingerprint,
    )  # fmt: skip
