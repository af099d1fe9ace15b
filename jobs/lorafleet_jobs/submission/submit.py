"""From a plan to trained, published adapters: records a submission, runs its lanes, closes what is left open.

A submission's id is the hash of what it trains, so submitting twice is the same submission: what has succeeded stays,
what failed or was cancelled is queued again, and so is what was deleted since. One driver at a time; a second one only
watches.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import yaml
from sqlalchemy.exc import OperationalError

from lorafleet.console import note
from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet.util.tracking_server import reach_tracking
from lorafleet_jobs.cluster.naming import named_cluster
from lorafleet_jobs.jobqueue.outbox import Outbox
from lorafleet_jobs.jobqueue.status import Submission, load_submission, open_store
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import SubmissionRow
from lorafleet_jobs.lane.job_log import JobLog
from lorafleet_jobs.submission.champions import settle_champions
from lorafleet_jobs.submission.cleanup import collect
from lorafleet_jobs.submission.done import queue_unpublished
from lorafleet_jobs.submission.driver_lease import DriverLease, driver_lease, driver_of, has_driver
from lorafleet_jobs.submission.finish import conclude
from lorafleet_jobs.submission.follow import POLL_SECONDS, Show, follow, nobody
from lorafleet_jobs.submission.mlflow_runs import close_runs, needs_run, open_runs
from lorafleet_jobs.submission.outbox_sender import OutboxSender

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking
    from lorafleet_jobs.intake.prepare import Prepared

GRACE_SECONDS = 30.0  # for lanes to stop between two steps
DETACH_SECONDS, DETACH_POLL_SECONDS = 60.0, 0.05
"""How long a driver in the background may take to begin, and how often that is looked at."""
RUNS_SECONDS = 3.0
"""Between two looks for jobs that were queued with another seed, and so need a run in MLflow."""
log = logging.getLogger(__name__)


def submit(prepared: Prepared, home: Home, address: str | None = None, show: Show = nobody) -> Submission:
    """Trains and publishes everything in a plan that is not there yet, on Ray at `address` or here; waits for the end.

    `show` is called with how it stands, again and again. Raises UnreachableError if Ray or MLflow does not answer. On
    KeyboardInterrupt the lanes are stopped first.
    """
    submission, store = prepared.plan.submission, open_store(home)
    with driver_lease(store, submission) as lease:
        if lease is not None:
            record(prepared, home)
            drive(submission, home, lease, address, show)
            if not lease.is_lost:
                return load_submission(home, submission)
    note(f"{submission} is driven by {driver_of(store, submission)}; watching it")
    return follow(submission, home, show)


def submit_detached(prepared: Prepared, home: Home, address: str | None = None) -> Submission:
    """Records the submission and leaves it to a process in the background; returns once that process is at work.

    That process opens the runs in MLflow, which may take seconds. Raises UnreachableError if it does not start, or if
    nobody listens at the address of an MLflow server.
    """
    submission = prepared.plan.submission
    reach_tracking(home.tracking_uri)
    with driver_lease(open_store(home), submission) as lease:
        if lease is not None:
            record_rows(prepared, home)
    if lease is not None:
        start_driver(submission, home, address)
    return load_submission(home, submission)


def record(prepared: Prepared, home: Home) -> None:
    """Writes a submission's rows and opens its runs in MLflow, each once; the caller holds the driver's lease."""
    record_rows(prepared, home)
    _open_runs(open_store(home), prepared.plan.submission, home)


def record_rows(prepared: Prepared, home: Home) -> None:
    """Writes a submission's rows, each once, and queues again what failed; whoever drives it opens its runs."""
    plan, manifest = prepared.plan, prepared.manifest
    text = yaml.safe_dump(manifest.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)
    resources = manifest.resources.with_changes(pack=len(plan.packs[0]))  # decided now, whoever drives it later
    row = SubmissionRow(
        id=plan.submission,
        name=manifest.name,
        base=manifest.base,
        manifest=text,
        lanes=plan.lanes,
        resources=resources,
        priority=manifest.priority,
    )
    _ = home.tracking_uri  # raises SettingsError for an address that is none, before anything is recorded
    store, now = open_store(home), time.time()
    store.add(row, plan.jobs, now)
    store.retry(plan.submission, now)
    for lost in queue_unpublished(home, store, plan.submission, now):
        JobLog(home.job_log(plan.submission, lost.id)).append("queued again: its version was deleted")
    folder = home.submissions / plan.submission
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.yaml").write_text(text)


def drive(submission: str, home: Home, lease: DriverLease, address: str | None, show: Show = nobody) -> None:
    """Runs a recorded submission's lanes to the end and reports it, unless another driver takes the lease away."""
    store = open_store(home)
    if store.is_drained(submission) and store.submission(submission).cluster is not None:
        _finalise(store, submission, home)  # the last driver died before it could
    while not lease.is_lost and not store.is_drained(submission):  # again, if jobs were queued again meanwhile
        _drive_once(store, submission, home, lease, address, show)
        if lease.renew():
            _finalise(store, submission, home)


def _finalise(store: JobStore, submission: str, home: Home) -> None:
    close_runs(store, _tracking(home), submission)
    for line in settle_champions(store, submission, _tracking(home)):
        note(line)
    collect(home, store, submission)
    conclude(home, load_submission(home, submission), _tracking(home))
    store.set_cluster(submission, None)


def _drive_once(
    store: JobStore, submission: str, home: Home, lease: DriverLease, address: str | None, show: Show
) -> None:
    store.give_back_all(submission, time.time())  # no other driver lives, so no lane does
    collect(home, store, submission)
    if store.submission(submission).run_id is None:
        _open_runs(store, submission, home)
    sender = OutboxSender(Outbox(store.engine), _tracking(home), submission)
    try:
        lost = _run(store, store.submission(submission), home, lease, address, show)
    except KeyboardInterrupt:
        sender.stop()
        if not lease.is_lost:
            close_runs(store, _tracking(home), submission)
        raise
    finally:
        sender.stop()
    if not lease.renew():
        return  # the rows are the other driver's
    reason = lost[0] if lost else "its lanes ended before it could be trained"
    for row in store.end(submission, "failed", f"{reason}; submit again", time.time(), "lost"):
        JobLog(home.job_log(submission, row.id)).append(f"lost: {reason}")


def _run(
    store: JobStore, row: SubmissionRow, home: Home, lease: DriverLease, address: str | None, show: Show
) -> list[str]:
    from lorafleet_jobs.cluster.ray_cluster import cluster
    from lorafleet_jobs.cluster.ray_lanes import cluster_name, run_lanes
    from lorafleet_jobs.cluster.sizing import cpus_wanted, fleet_of

    jobs = load_submission(home, row.id).jobs
    with cluster(address, cpus_wanted(row, jobs)) as connected, ThreadPoolExecutor(1) as pool:
        note(f"{row.id} trains on {connected.name}", "Ray", "dim")
        fleet = fleet_of(row, jobs, home, connected, lease.token)
        store.set_cluster(row.id, cluster_name())
        watch = Driving(store, home, row.id, show)
        running = pool.submit(run_lanes, fleet)
        try:
            while not running.done():
                watch.look()
                time.sleep(POLL_SECONDS)
            return running.result()
        except KeyboardInterrupt:
            note("stopping between two steps; finished adapters stay, and the same command goes on with the rest")
            if lease.renew():  # else the jobs are another driver's, which trains them on
                store.end(row.id, "cancelled", "interrupted; submit again to go on", time.time(), "cancelled")
            running.exception(GRACE_SECONDS)
            raise
        finally:
            show(load_submission(home, row.id))


class Driving:
    """What a driver does while its lanes work: it shows how they get on, and opens the runs that retried jobs need."""

    def __init__(self, store: JobStore, home: Home, submission: str, show: Show) -> None:
        self._store, self._home, self._submission, self._show = store, home, submission, show
        self._next_runs = 0.0

    def look(self) -> None:
        """Shows how the submission stands; called again and again."""
        seen = load_submission(self._home, self._submission)
        self._show(seen)
        if time.monotonic() < self._next_runs or not any(needs_run(job) for job in seen.jobs):
            return
        self._next_runs = time.monotonic() + RUNS_SECONDS
        try:
            open_runs(self._store, _tracking(self._home), self._submission, self._home)
        except (UnreachableError, OperationalError) as problem:  # MLflow is away, or the disk is full
            log.warning("%s", problem)  # tried again, as long as it takes


def start_driver(submission: str, home: Home, address: str | None) -> None:
    """Leaves a recorded submission to a process in the background; returns once that is at work.

    Raises UnreachableError if it does not start, or if the Ray that is named does not answer.
    """
    if (named := named_cluster(address)) is not None:
        named.check()
    out = home.submissions / submission / "driver.log"
    command = [sys.executable, "-m", "lorafleet_jobs.submission.driver", submission, *([address] if address else [])]
    environment = {**os.environ, **home.environment()}
    with out.open("ab") as stream:
        driver = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    deadline = time.monotonic() + DETACH_SECONDS
    while not has_driver(open_store(home), submission):
        if load_submission(home, submission).has_ended:
            return
        if driver.poll() is not None or time.monotonic() > deadline:
            raise UnreachableError(f"the background driver did not start; see {out}")
        time.sleep(DETACH_POLL_SECONDS)


def _open_runs(store: JobStore, submission: str, home: Home) -> None:
    if not store.is_drained(submission):
        open_runs(store, _tracking(home), submission, home)


def _tracking(home: Home) -> MlflowTracking:
    from lorafleet.tracking import MlflowTracking

    return MlflowTracking(home.tracking_uri, home.artifacts)
