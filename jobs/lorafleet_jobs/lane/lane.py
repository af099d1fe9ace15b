"""A lane: holds one base and trains jobs on it, several at once, until the desk is drained. Knows no Ray.

A job that fails, fails alone: the lane says why in one line, and the next takes its place between two steps. A lane
that has to leave keeps what its jobs have learned and gives them back; one that hangs ends itself.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import Bundle
from lorafleet.deterministic import use_deterministic_algorithms
from lorafleet.errors import LorafleetError, UnreachableError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.evaluate.trial_score import contest_of
from lorafleet_jobs.jobqueue.failures import classify, lines_of, reason
from lorafleet_jobs.jobqueue.job_queue import JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.outbox import QueueTracker
from lorafleet_jobs.lane.followers import NoFollowers
from lorafleet_jobs.lane.heartbeat import Heartbeat
from lorafleet_jobs.lane.job_log import JobLog
from lorafleet_jobs.lane.leased_job import LeasedJob
from lorafleet_jobs.lane.publish import kept, publish
from lorafleet_jobs.lane.recycle import Wear
from lorafleet_jobs.lane.timeline import Timeline
from lorafleet_jobs.lane.watchdog import LifeSigns, Watchdog, die
from lorafleet_jobs.train import FAILURES, Cancelled, EarlyStopped, JobRun, Pack, TrainJob
from lorafleet_jobs.train.batching import CompiledBatching, DynamicBatching, ExactBatching

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking

Leaving = Literal["drained", "preempted", "recycled", "yielded"]
WAIT_SECONDS = 1.0  # while other lanes hold all the jobs that are left
LOOK_SECONDS = 5.0  # between two looks at whether others need the place
log = logging.getLogger(__name__)


def stays() -> bool:
    """No notice to leave was given."""
    return False


class Lane:
    """One lane's life."""

    def __init__(
        self,
        setup: LaneConfig,
        desk: JobQueue,
        tracking: MlflowTracking,
        must_leave: Callable[[], bool] = stays,
        then: Callable[[str], None] = die,
        mates: NoFollowers | None = None,
    ) -> None:
        """`must_leave` says whether the machine is about to go; `then` ends the process if the lane hangs.

        `mates` are the other workers of the lane's jobs.
        """
        self.setup, self.desk, self.tracking = setup, desk, tracking
        self._mates = mates or NoFollowers()
        self._spans = Timeline(setup.spans)
        self.home = Home(setup.home)
        self._must_leave, self._then = must_leave, then
        self._held: list[LeasedJob] = []
        self._crew: tuple[tuple[str, str], Pack] | None = None
        self._signs = LifeSigns(setup.resources.stall_seconds)
        self._wear = Wear()
        self._born = time.monotonic()
        self._knows_runs = False
        self._ask_again = 0.0  # when the desk is asked for work again
        self._look_again = self._born + LOOK_SECONDS

    def run(self) -> Leaving:
        """Trains until every job of the submission has ended, or the lane must leave; waits while others hold the last.

        Raises UnreachableError if the desk is gone for good, and what is a defect.
        """
        self.desk.open(self.setup.name)
        watchdog = Watchdog(self._signs, self._stalled, self._then)
        try:
            while True:
                if (why := self._leaves()) is not None:
                    self._hand_back(why)
                    self._mates.leaving()
                    return why
                self._take_in()
                if any(held.run is not None for held in self._held):
                    self._step()
                elif not self._held and self.desk.is_drained():
                    self._mates.leaving()
                    return "drained"
                elif not self._held:
                    self._wait()
        except Exception as problem:  # a defect, or a device that failed: this life is over, the next one starts afresh
            for held in self._held:
                self._died(held, problem)
            raise
        finally:
            watchdog.stop()
            self._spans.now(None)
            for held in self._held:
                held.pulse.stop()

    def _wait(self) -> None:
        self._signs.now("waiting for work")
        self._spans.now("wait")
        self._mates.waiting()
        time.sleep(WAIT_SECONDS)

    def _leaves(self) -> Leaving | None:
        if self._must_leave():
            return "preempted"
        if self._wear.is_worn:
            return "recycled"
        if time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + LOOK_SECONDS
            if self.desk.should_yield(time.monotonic() - self._born):
                return "yielded"
        return None

    def _hand_back(self, why: Leaving) -> None:
        """Between two steps: every job is kept as it is, and another lane may have it."""
        for held in self._held:
            try:
                if held.run is not None:
                    held.run.save()
            except OSError as problem:
                held.say(f"could not be kept at step {held.step}: {problem}")
            if held.run is not None:
                held.run.training.give_up()
            held.pulse.stop()
            if self.desk.give_back(held.lease.spec.id, held.lease.attempt):
                held.say(f"given back at step {held.step}: lane {self.setup.name} is {why}")
        self._held.clear()

    def _take_in(self) -> None:
        """Leases jobs while there is room; one for another base waits, leased, until this one's are done."""
        while self._has_room and time.monotonic() >= self._ask_again:
            lease = self.desk.lease(self.setup.name, [held.lease.spec.id for held in self._held])
            if lease is None:
                self._ask_again = time.monotonic() + WAIT_SECONDS  # not at every step
                break
            job_log = JobLog(self.home.job_log(lease.spec.submission, lease.spec.id))
            self._held.append(LeasedJob(lease, Heartbeat(self.desk, lease), job_log))
            self._held[-1].say(f"attempt {lease.attempt}, lane {self.setup.name}")
            self._start_if_it_fits()
        self._start_if_it_fits()

    @property
    def _has_room(self) -> bool:
        limits = [held.limit(self.setup.pack) for held in self._held]
        if len(self._held) >= min(limits, default=self.setup.pack) or any(held.run is None for held in self._held):
            return False
        return self._crew is None or self._crew[1].has_room

    def _start_if_it_fits(self) -> None:
        waiting = next((held for held in self._held if held.run is None), None)
        if waiting is None or any(held.run is not None and held.wants != waiting.wants for held in self._held):
            return
        spec, run_id = waiting.lease.spec, waiting.lease.run_id
        self._signs.now(f"starting job {spec.id}")
        self._spans.now("start")
        out = self.home.bundles / spec.id
        try:
            if not self._knows_runs:
                self.tracking.check_run(run_id)  # before anything is trained that could not be published
                self._knows_runs = True
            if (done := kept(out, spec.id)) is not None:
                self._end(waiting, done)
                return
            tracker = QueueTracker(partial(self.desk.record, spec.id, waiting.lease.attempt))
            half_way = self.home.checkpoints / waiting.lease.checkpoint_name
            contest = contest_of(spec, waiting.compare, self.setup.device)
            order = TrainJob(
                spec, out, tracker, waiting.on_step, run_id, half_way, contest, self._mates.team,
                self.setup.resources.checkpoint_seconds, self._spans.now,
            )  # fmt: skip
            with self._mates.starting(spec, half_way):
                run = self._crew_for(waiting).join(order)
        except FAILURES as problem:
            self._end(waiting, problem, packed=len(self._held))
        else:
            waiting.begins(run)

    def _crew_for(self, held: LeasedJob) -> Pack:
        if self._crew is None or self._crew[0] != held.wants:
            self._crew = None  # two bases need not fit in memory
            base, precision = held.wants
            self._signs.now(f"loading {base}")
            self._spans.now("load")
            if self.setup.resources.exact:
                use_deterministic_algorithms(self.setup.device)
            warm = LoadedBase.load(find_base(base), self.setup.device, precision)
            self._crew = (held.wants, Pack(warm, self.home.cache, self._calls(warm)))
            self._spans.now("start")
        return self._crew[1]

    def _calls(self, warm: LoadedBase) -> DynamicBatching:
        if self.setup.resources.exact:
            return ExactBatching()
        if self.setup.resources.compile:
            return CompiledBatching(warm, self.setup.pack, self.setup.rank)
        return DynamicBatching()

    def _step(self) -> None:
        assert self._crew is not None  # somebody has joined it
        self._signs.now(f"stepping {len(self._crew[1].runs)} jobs")
        self._spans.now("train")
        packed = len(self._crew[1].runs)
        for run, end in self._crew[1].step():
            self._end(self._holder(run), end, packed)

    def _holder(self, run: JobRun) -> LeasedJob:
        return next(held for held in self._held if held.run is run)

    def _end(self, held: LeasedJob, end: Bundle | Exception, packed: int = 1) -> None:
        """A job is over: published, failed, or no longer this lane's."""
        try:
            if isinstance(end, Exception):
                raise end
            held.say("publishing")
            self._spans.now("publish")
            self._signs.now(f"publishing job {held.lease.spec.id}")
            version = publish(end, held.lease.run_id, self.tracking, held.pulse.check)
        except EarlyStopped as verdict:
            self._stopped(held, str(verdict))
        except Cancelled:
            held.say("let go: cancelled, or in other hands")  # who did that has written how it stands
        except FAILURES as problem:
            self._failed(held, problem, packed)
        except Exception as problem:
            self._died(held, problem)
            raise
        else:
            if self.desk.finish(held.lease.spec.id, held.lease.attempt, "succeeded", version, None):
                held.say(f"version {version} of {held.lease.spec.adapter}")
        finally:
            held.pulse.stop()
            self._held.remove(held)
            self._wear.job_ended()

    def _stopped(self, held: LeasedJob, reason: str) -> None:
        """Its sweep has better points: nothing of it is published."""
        lease = held.lease
        if self.desk.finish(lease.spec.id, lease.attempt, "stopped", None, reason):
            held.say(reason)
            shutil.rmtree(self.home.checkpoints / lease.checkpoint_name, ignore_errors=True)

    def _failed(self, held: LeasedJob, problem: Exception, packed: int) -> None:
        """Tells the desk, which decides whether the job is tried again."""
        kind, lease = classify(problem), held.lease
        if not isinstance(problem, LorafleetError):
            held.say(*lines_of(problem))
        why = reason(problem, held.log.path)
        if kind == "memory" and held.run is not None and packed > 1:
            held.run.save()  # among fewer it goes on from here
        state = self.desk.fail(lease.spec.id, lease.attempt, kind, why, packed)
        held.say(f"{kind}: {why}" + (" (it is tried again)" if state == "queued" else ""))
        if kind == "lost" or self._mates.out_of_step(problem):
            raise problem  # this process can do no more

    def _died(self, held: LeasedJob, problem: Exception) -> None:
        """The lane ends of a problem that is none of a job's own failures: the job's log and its row say which."""
        held.say(*lines_of(problem))
        if isinstance(problem, UnreachableError):
            return  # the desk is gone; it will find out that we are
        why = f"its lane died of {reason(problem, held.log.path)}"
        self.desk.fail(held.lease.spec.id, held.lease.attempt, "lost", why, len(self._held))

    def _stalled(self, reason: str) -> None:
        """The watchdog's last words; called from its thread."""
        for held in list(self._held):
            held.say(f"lane {self.setup.name} {reason}")
            self.desk.fail(held.lease.spec.id, held.lease.attempt, "stalled", f"its lane {reason}", len(self._held))
