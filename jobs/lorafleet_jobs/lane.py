"""A lane: holds one base and trains jobs on it, several at once, until the desk is drained. Knows no Ray.

A job that fails, fails alone: the lane says why in one line, and the next takes its place between two steps. What is
published is published in this order, each step safe to repeat: bundle on disk, artifact in MLflow, version in the
registry, row in the store.
"""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorafleet.bases import find_base
from lorafleet.bundle import CARD, Bundle, read_bundle
from lorafleet.errors import BundleError, LorafleetError, UnreachableError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.desk import Desk, LaneSetup, Lease
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.pulse import Pulse
from lorafleet_jobs.train import FAILURES, Cancelled, Crew, JobRun, Order

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking, Status

WAIT_SECONDS = 1.0  # while other lanes hold all the jobs that are left
PUBLISH_SECONDS = 60.0  # how long a finished job waits for MLflow to come back
log = logging.getLogger(__name__)


@dataclass
class Held:
    """A job in this lane's hands."""

    lease: Lease
    pulse: Pulse
    run: JobRun | None = None
    """None until it has joined the crew."""

    @property
    def wants(self) -> tuple[str, str]:
        """The base, and its precision."""
        return self.lease.spec.base, self.lease.spec.recipe.precision


class Lane:
    """One lane's life."""

    def __init__(self, setup: LaneSetup, desk: Desk, tracking: MlflowTracking) -> None:
        self.setup = setup
        self.desk = desk
        self.tracking = tracking
        self.home = Home(setup.home)
        self._held: list[Held] = []
        self._crew: tuple[tuple[str, str], Crew] | None = None
        self._ask_again = 0.0  # when the desk is asked for work again

    def run(self) -> None:
        """Trains until every job of the submission has ended, waiting while others hold the last ones."""
        self.desk.open(self.setup.name)
        try:
            while True:
                self._take_in()
                if any(held.run is not None for held in self._held):
                    self._step()
                elif not self._held and self.desk.is_drained():
                    return
                elif not self._held:
                    time.sleep(WAIT_SECONDS)
        finally:
            for held in self._held:
                held.pulse.stop()

    def _take_in(self) -> None:
        """Leases jobs while there is room; one for another base waits, leased, until this one's are done."""
        while self._has_room and time.monotonic() >= self._ask_again:
            lease = self.desk.lease(self.setup.name)
            if lease is None:
                self._ask_again = time.monotonic() + WAIT_SECONDS  # not at every step
                break
            self._held.append(Held(lease, Pulse(self.desk, lease)))
            self._start_if_it_fits()
        self._start_if_it_fits()

    @property
    def _has_room(self) -> bool:
        return len(self._held) < self.setup.pack and all(held.run is not None for held in self._held)

    def _start_if_it_fits(self) -> None:
        waiting = next((held for held in self._held if held.run is None), None)
        if waiting is None or any(held.run is not None and held.wants != waiting.wants for held in self._held):
            return
        lease = waiting.lease
        self.tracking.resume(lease.run_id, lease.attempt)
        out = self.home.bundles / lease.spec.id
        try:
            if (kept := _kept(out, lease.spec.id)) is not None:
                self._end(waiting, kept)
                return
            tracker = self.tracking.job_tracker(lease.run_id)
            crew = self._crew_for(waiting)
            half_way = self.home.checkpoints / lease.spec.id
            order = Order(lease.spec, out, tracker, waiting.pulse.on_step, lease.run_id, half_way)
            waiting.run = crew.join(order)
        except FAILURES as problem:
            self._end(waiting, problem)

    def _crew_for(self, held: Held) -> Crew:
        if self._crew is None or self._crew[0] != held.wants:
            self._crew = None  # two bases need not fit in memory
            base, precision = held.wants
            warm = LoadedBase.load(find_base(base), self.setup.device, precision)
            self._crew = (held.wants, Crew(warm, self.home.cache))
        return self._crew[1]

    def _step(self) -> None:
        assert self._crew is not None  # somebody has joined it
        for run, end in self._crew[1].step():
            self._end(next(held for held in self._held if held.run is run), end)

    def _end(self, held: Held, end: Bundle | Exception) -> None:
        """A job is over: published, failed, or no longer this lane's."""
        lease = held.lease
        job, attempt = lease.spec.id, lease.attempt
        try:
            if isinstance(end, Exception):
                raise end
            version = self._publish(end, held)
        except Cancelled:
            pass  # somebody else has written how it ended, or holds it now
        except FAILURES as problem:
            reason = self._reason(lease.spec, problem)
            if self.desk.finish(job, attempt, "failed", None, reason):
                self._close(lease, "FAILED", reason)
        else:
            if self.desk.finish(job, attempt, "succeeded", version, None):
                self._close(lease, "FINISHED")
        finally:
            held.pulse.stop()
            self._held.remove(held)

    def _publish(self, bundle: Bundle, held: Held) -> int:
        deadline = time.monotonic() + PUBLISH_SECONDS
        while True:
            try:
                return self._publish_once(bundle, held)
            except UnreachableError as problem:
                if time.monotonic() > deadline:
                    raise UnreachableError(f"trained, but not published ({problem}); submit again") from None
            time.sleep(WAIT_SECONDS)

    def _publish_once(self, bundle: Bundle, held: Held) -> int:
        done = self.tracking.registered(bundle.card.name, bundle.card.job_id)
        if done is not None:
            return done.version
        self.tracking.log_bundle(held.lease.run_id, bundle.path)
        held.pulse.check()  # a lane that lost the job must not register it
        return self.tracking.register(bundle, held.lease.run_id).version

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


def _kept(out: Path, job: str) -> Bundle | None:
    """The bundle that an earlier attempt could not publish."""
    if not (out / CARD).exists():
        return None
    try:
        kept = read_bundle(out)
    except BundleError as problem:
        log.warning("%s; training again", problem)
        return None
    return kept if kept.card.job_id == job else None
