"""From a plan to trained, published adapters: records a submission, runs its lanes, closes what is left open.

A submission's id is the hash of what it trains, so submitting twice is the same submission: what has succeeded stays,
what failed or was cancelled is queued again. One driver at a time; a second one only watches.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import yaml

from lorafleet.console import note
from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet_jobs.lock import driver_lock, has_driver
from lorafleet_jobs.report import Submission, load_submission, open_store, store_url
from lorafleet_jobs.store import JobStore, State, SubmissionRow

if TYPE_CHECKING:
    from lorafleet.tracking import JobInfo, MlflowTracking, Status
    from lorafleet_jobs.intake import Prepared
    from lorafleet_jobs.jobspec import JobSpec

Show = Callable[[Submission], None]
POLL_SECONDS = 0.3
GRACE_SECONDS = 30.0  # for lanes to stop between two steps
DETACH_SECONDS = 60.0
log = logging.getLogger(__name__)


def nobody(submission: Submission) -> None:
    """Shows nothing."""


def submit(prepared: Prepared, home: Home, address: str | None = None, show: Show = nobody) -> Submission:
    """Trains and publishes everything in a plan that is not there yet, on Ray at `address` or here; waits for the end.

    `show` is called with how it stands, again and again. Raises UnreachableError if Ray or MLflow does not answer. On
    KeyboardInterrupt the lanes are stopped first.
    """
    with driver_lock(home, prepared.plan.submission) as mine:
        if mine:
            record(prepared, home)
            drive(prepared.plan.submission, home, address, show)
            return load_submission(home, prepared.plan.submission)
    note(f"{prepared.plan.submission} is being trained already; watching it")
    return follow(prepared.plan.submission, home, show)


def submit_detached(prepared: Prepared, home: Home, address: str | None = None) -> Submission:
    """Records the submission and leaves it to a process in the background; returns once that process is at work."""
    submission = prepared.plan.submission
    with driver_lock(home, submission) as mine:
        if mine:
            record(prepared, home)
    if mine:
        _start_driver(submission, home, address)
    return load_submission(home, submission)


def follow(submission: str, home: Home, show: Show) -> Submission:
    """Shows a submission that another process drives until it has ended or nobody drives it any more."""
    while True:
        driven = has_driver(home, submission)
        seen = load_submission(home, submission)
        show(seen)
        if seen.has_ended or not driven:
            return seen
        time.sleep(POLL_SECONDS)


def record(prepared: Prepared, home: Home) -> None:
    """Writes a submission's rows and opens its runs in MLflow, each once; the caller holds the driver's lock."""
    plan, manifest = prepared.plan, prepared.manifest
    text = yaml.safe_dump(manifest.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)
    resources = manifest.resources.with_changes(pack=len(plan.packs[0]))  # decided now, whoever drives it later
    row = SubmissionRow(plan.submission, manifest.name, manifest.base, text, plan.lanes, resources)
    store, now = open_store(home), time.time()
    store.add(row, plan.jobs, now)
    store.release(plan.submission, now)  # no driver lives, so no lane does
    store.requeue(plan.submission, now)
    if not store.is_drained(plan.submission):
        _open_runs(store, _tracking(home), plan.submission)
    folder = home.submissions / plan.submission
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.yaml").write_text(text)


def drive(submission: str, home: Home, address: str | None, show: Show = nobody) -> None:
    """Runs a recorded submission's lanes to the end; the caller holds the driver's lock."""
    store = open_store(home)
    if store.is_drained(submission):
        return
    try:
        lost = _run(store, store.submission(submission), home, address, show)
    except KeyboardInterrupt:
        _close_runs(store, _tracking(home), submission)
        raise
    reason = lost[0] if lost else "its lanes ended before it could be trained"
    store.end(submission, "failed", f"{reason}; submit again", time.time())
    _close_runs(store, _tracking(home), submission)


def _run(store: JobStore, row: SubmissionRow, home: Home, address: str | None, show: Show) -> list[str]:
    from lorafleet_jobs.cluster import cluster, gpus_a_lane, lanes_that_fit
    from lorafleet_jobs.lanes import Fleet, run_lanes

    todo = load_submission(home, row.id).unfinished
    cpus, pack = row.resources.cpus_per_lane, row.resources.pack
    with cluster(address, cpus * min(row.lanes, todo)) as found, ThreadPoolExecutor(1) as pool:
        gpus = gpus_a_lane(row.resources, found)
        fleet = Fleet(
            submission=row.id, drive=uuid.uuid4().hex[:8], cpus=cpus, gpus=gpus, pack=1 if pack == "auto" else pack,
            lanes=lanes_that_fit(row.lanes, todo, gpus, found), home=home.root,
            storage=home.ray_temp, tracking_uri=home.tracking_uri, database=store_url(home),
        )  # fmt: skip
        running = pool.submit(run_lanes, fleet)
        try:
            return _wait(running, row.id, home, show)
        except KeyboardInterrupt:
            note("stopping between two steps; finished adapters stay, and the same command goes on with the rest")
            store.end(row.id, "cancelled", "interrupted; submit again to go on", time.time())
            running.exception(GRACE_SECONDS)
            raise


def _wait(running: Future[list[str]], submission: str, home: Home, show: Show) -> list[str]:
    while not running.done():
        show(load_submission(home, submission))
        time.sleep(POLL_SECONDS)
    show(load_submission(home, submission))
    return running.result()


def _start_driver(submission: str, home: Home, address: str | None) -> None:
    out = home.submissions / submission / "driver.log"
    command = [sys.executable, "-m", "lorafleet_jobs.driver", submission, *([address] if address else [])]
    environment = {**os.environ, "LORAFLEET_HOME": str(home.root)}
    with out.open("ab") as stream:
        driver = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    deadline = time.monotonic() + DETACH_SECONDS
    while not has_driver(home, submission):
        if load_submission(home, submission).has_ended:
            return
        if driver.poll() is not None or time.monotonic() > deadline:
            raise UnreachableError(f"the background driver did not start; see {out}")
        time.sleep(POLL_SECONDS)


def _tracking(home: Home) -> MlflowTracking:
    from lorafleet.tracking import MlflowTracking

    return MlflowTracking(home.tracking_uri, home.artifacts)


def _open_runs(store: JobStore, tracking: MlflowTracking, submission: str) -> None:
    row, jobs = store.submission(submission), store.jobs(submission)
    parent = row.run_id
    if parent is None:
        params = {"base": row.base, "jobs": str(len(jobs)), "lanes": str(row.lanes)}
        parent = tracking.start_submission(row.name, submission, params, row.manifest)
        store.set_run(submission, None, parent)
    for job in jobs:
        if job.run_id is None:
            store.set_run(submission, job.id, tracking.start_job(parent, _job_info(job.spec)))


def _close_runs(store: JobStore, tracking: MlflowTracking, submission: str) -> None:
    row, jobs = store.submission(submission), store.jobs(submission)
    endings: dict[State, Status] = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
    try:
        for job in jobs:
            if job.run_id is not None and job.state in endings:
                tracking.settle(job.run_id, endings[job.state], job.error)
        if row.run_id is not None:
            counts = {f"jobs/{state}": float(sum(job.state == state for job in jobs)) for state in endings}
            tracking.job_tracker(row.run_id).metrics(0, counts)
            tracking.finish(row.run_id, "FINISHED" if counts["jobs/succeeded"] == len(jobs) else "FAILED")
    except UnreachableError as problem:
        note(str(problem))


def _job_info(spec: JobSpec) -> JobInfo:
    from lorafleet.tracking import JobInfo

    return JobInfo(
        name=f"{spec.adapter}-{spec.id[:6]}", job_id=spec.id, subject=spec.subject, adapter=spec.adapter,
        base=spec.base, steps=spec.steps, recipe=spec.recipe, folder=spec.folder,
        images=len(spec.images), dataset_fingerprint=spec.dataset_fingerprint,
    )  # fmt: skip
