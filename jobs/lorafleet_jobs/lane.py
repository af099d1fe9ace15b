"""A lane: holds one base and trains job after job until the desk is drained. Knows no Ray; a desk is passed in.

A job that fails, fails alone: the lane says why in one line and takes the next. What is published is published in this
order, each step safe to repeat: bundle on disk, artifact in MLflow, version in the registry, row in the store.
"""

from __future__ import annotations

import logging
import time
import traceback
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from lorafleet.bases import find_base
from lorafleet.bundle import CARD, Bundle, read_bundle
from lorafleet.errors import BundleError, LorafleetError, UnreachableError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.desk import Desk, LaneSetup, Lease
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.rows import LEASE_SECONDS
from lorafleet_jobs.train import Cancelled, train_job

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking, Status

HEARTBEAT_SECONDS = LEASE_SECONDS / 6
PROGRESS_SECONDS = 0.5
WAIT_SECONDS = 1.0  # while other lanes hold all the jobs that are left
PUBLISH_SECONDS = 60.0  # how long a finished job waits for MLflow to come back
FAILURES = (LorafleetError, OSError, RuntimeError, ValueError, ArithmeticError)
"""What fails a job; anything else is a defect that ends the lane, and the job is tried again in a new one."""
log = logging.getLogger(__name__)


class Lane:
    """One lane's life."""

    def __init__(self, setup: LaneSetup, desk: Desk, tracking: MlflowTracking) -> None:
        self.setup = setup
        self.desk = desk
        self.tracking = tracking
        self.home = Home(setup.home)
        self._warm: tuple[tuple[str, str], LoadedBase] | None = None

    def run(self) -> None:
        """Trains until every job of the submission has ended, waiting while others hold the last ones."""
        self.desk.open(self.setup.name)
        while True:
            lease = self.desk.lease(self.setup.name)
            if lease is not None:
                self._work(lease)
            elif self.desk.is_drained():
                return
            else:
                time.sleep(WAIT_SECONDS)

    def _work(self, lease: Lease) -> None:
        job, attempt = lease.spec.id, lease.attempt
        self.tracking.resume(lease.run_id, attempt)
        try:
            with Pulse(self.desk, lease) as pulse:
                version = self._publish(self._bundle(lease, pulse), lease, pulse)
        except Cancelled:
            return  # somebody else has written how it ended, or holds it now
        except FAILURES as problem:
            reason = self._reason(lease.spec, problem)
            if self.desk.finish(job, attempt, "failed", None, reason):
                self._close(lease, "FAILED", reason)
            return
        if self.desk.finish(job, attempt, "succeeded", version, None):
            self._close(lease, "FINISHED")

    def _bundle(self, lease: Lease, pulse: Pulse) -> Bundle:
        """The job's bundle: the one that an earlier attempt could not publish, or a new one."""
        out = self.home.bundles / lease.spec.id
        if (out / CARD).exists():
            try:
                kept = read_bundle(out)
            except BundleError as problem:
                log.warning("%s; training again", problem)
            else:
                if kept.card.job_id == lease.spec.id:
                    return kept
        tracker = self.tracking.job_tracker(lease.run_id)
        base = self._base(lease.spec)
        return train_job(lease.spec, base, out, tracker, pulse.on_step, lease.run_id, self.home.cache)

    def _base(self, spec: JobSpec) -> LoadedBase:
        wanted = (spec.base, spec.recipe.precision)
        if self._warm is None or self._warm[0] != wanted:
            self._warm = None  # two bases need not fit in memory
            self._warm = (wanted, LoadedBase.load(find_base(spec.base), self.setup.device, spec.recipe.precision))
        return self._warm[1]

    def _publish(self, bundle: Bundle, lease: Lease, pulse: Pulse) -> int:
        deadline = time.monotonic() + PUBLISH_SECONDS
        while True:
            try:
                return self._publish_once(bundle, lease, pulse)
            except UnreachableError as problem:
                if time.monotonic() > deadline:
                    raise UnreachableError(f"trained, but not published ({problem}); submit again") from None
            time.sleep(WAIT_SECONDS)

    def _publish_once(self, bundle: Bundle, lease: Lease, pulse: Pulse) -> int:
        done = self.tracking.registered(bundle.card.name, bundle.card.job_id)
        if done is not None:
            return done.version
        self.tracking.log_bundle(lease.run_id, bundle.path)
        pulse.check()  # a lane that lost the job must not register it
        return self.tracking.register(bundle, lease.run_id).version

    def _close(self, lease: Lease, status: Status, error: str | None = None) -> None:
        try:
            self.tracking.finish(lease.run_id, status, error)
        except UnreachableError as problem:
            log.warning("%s", problem)

    def _reason(self, spec: JobSpec, problem: Exception) -> str:
        if isinstance(problem, LorafleetError):
            return str(problem)
        where = self.home.submissions / spec.submission / f"{spec.id}.log"
        where.parent.mkdir(parents=True, exist_ok=True)
        with where.open("a") as stream:
            stream.write("".join(traceback.format_exception(problem)))
        said = (str(problem).splitlines() or [""])[0]
        return f"{type(problem).__name__}: {said} (traceback in {where})"


class Pulse:
    """Keeps a lease alive from a thread of its own, and tells the training when it is no longer wanted."""

    def __init__(self, desk: Desk, lease: Lease) -> None:
        self._desk = desk
        self._job, self._attempt, self._steps = lease.spec.id, lease.attempt, lease.spec.steps
        self._stop, self._lost = Event(), Event()
        self._reported = 0.0
        self._thread = Thread(target=self._beat, name=f"pulse-{self._job}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, at: object) -> None:
        self._stop.set()
        self._thread.join()

    def on_step(self, step: int, loss: float) -> None:
        """Reports a step now and then; raises Cancelled once the job is no longer this attempt's."""
        if self._lost.is_set():
            raise Cancelled
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS or step == self._steps:
            self._reported = now
            if not self._desk.progress(self._job, self._attempt, step, loss):
                raise Cancelled

    def check(self) -> None:
        """Asks the desk now; raises Cancelled if the job is no longer this attempt's."""
        if not self._desk.heartbeat(self._job, self._attempt):
            raise Cancelled

    def _beat(self) -> None:
        try:
            while not self._stop.wait(HEARTBEAT_SECONDS):
                if not self._desk.heartbeat(self._job, self._attempt):
                    return
        finally:
            self._lost.set()
