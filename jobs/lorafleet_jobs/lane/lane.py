"""A lane: holds one base and trains jobs on it, several at once, until no job of the submission is left.

A job that fails does not end the others: the lane reports why in one line, and another job joins the pack between two
steps. A lane that has to leave writes checkpoints of its jobs and gives them back; one that hangs ends its process.
Knows the queue, the tracker and one pack; refuses to know Ray.
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
from lorafleet_jobs.evaluate.trial_score import trial_of
from lorafleet_jobs.jobqueue.failures import classify, lines_of, reason
from lorafleet_jobs.jobqueue.job_queue import JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.outbox import QueueTracker
from lorafleet_jobs.lane.current_base import CurrentBase
from lorafleet_jobs.lane.followers import Followers, NoFollowers
from lorafleet_jobs.lane.heartbeat import Heartbeat
from lorafleet_jobs.lane.job_log import JobLog
from lorafleet_jobs.lane.leased_job import LeasedJob
from lorafleet_jobs.lane.publish import kept, publish, told
from lorafleet_jobs.lane.recycle import ProcessUsage
from lorafleet_jobs.lane.timeline import Timeline
from lorafleet_jobs.lane.watchdog import Activity, Watchdog, die
from lorafleet_jobs.train import FAILURES, Cancelled, EarlyStopped, JobRun, Pack, TrainJob
from lorafleet_jobs.train.batching import batching_for

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking

Leaving = Literal["drained", "preempted", "recycled", "yielded"]
WAIT_SECONDS = 1.0
"""Between two requests for a job while other lanes have all that are left."""
YIELD_CHECK_SECONDS = 5.0
"""Between two checks whether another submission needs this lane's device."""
log = logging.getLogger(__name__)


def stays() -> bool:
    """The machine stays: no notice of its end was given."""
    return False


class Lane:
    """One lane, from its start until it leaves."""

    def __init__(
        self,
        setup: LaneConfig,
        queue: JobQueue,
        tracking: MlflowTracking,
        must_leave: Callable[[], bool] = stays,
        then: Callable[[str], None] = die,
        followers: Followers | None = None,
    ) -> None:
        """`must_leave` returns whether the machine is about to go; `then` ends the process if the lane hangs.

        `followers` are the other ranks of the lane's jobs.
        """
        self.setup, self.queue, self.tracking = setup, queue, tracking
        self._followers: Followers = followers or NoFollowers()
        self._timeline = Timeline(setup.spans)
        self.home = Home(setup.home)
        self._must_leave, self._then = must_leave, then
        self._jobs: list[LeasedJob] = []
        self._pack: CurrentBase[Pack] = CurrentBase()
        self.activity = Activity(setup.resources.stall_seconds)
        self._usage = ProcessUsage()
        self._started = time.monotonic()
        self._knows_runs = False
        self._next_lease = 0.0  # when the queue is asked for a job again
        self._next_yield_check = self._started + YIELD_CHECK_SECONDS

    def run(self) -> Leaving:
        """Trains until every job of the submission has ended, or the lane must leave; returns why it ended.

        Waits while other lanes have the last jobs. Raises UnreachableError if the queue does not answer any more, and
        whatever is a defect of the program.
        """
        self.queue.open(self.setup.name)
        watchdog = Watchdog(self.activity, self._stalled, self._then)
        try:
            while True:
                if (why := self._reason_to_leave()) is not None:
                    self._give_back(why)
                    self._followers.leaving()
                    return why
                self._lease_jobs()
                if any(job.run is not None for job in self._jobs):
                    self._step()
                elif not self._jobs and self.queue.is_drained():
                    self._followers.leaving()
                    return "drained"
                elif not self._jobs:
                    self._wait()
        except Exception as problem:  # a defect, or a device that failed: Ray starts this lane again
            for job in self._jobs:
                self._lane_died(job, problem)
            raise
        finally:
            watchdog.stop()
            self._timeline.begin(None)
            for job in self._jobs:
                job.close()

    def _wait(self) -> None:
        self.activity.begin("waiting for work")
        self._timeline.begin("wait")
        self._followers.waiting()
        time.sleep(WAIT_SECONDS)

    def _reason_to_leave(self) -> Leaving | None:
        if self._must_leave():
            return "preempted"
        if self._usage.should_recycle:
            return "recycled"
        if time.monotonic() >= self._next_yield_check:
            self._next_yield_check = time.monotonic() + YIELD_CHECK_SECONDS
            if self.queue.should_yield(time.monotonic() - self._started):
                return "yielded"
        return None

    def _give_back(self, why: Leaving) -> None:
        """Writes a checkpoint of every job and returns it to the queue, where another lane may lease it."""
        for job in self._jobs:
            try:
                if job.run is not None:
                    job.run.save_and_wait()
            except OSError as problem:
                job.log(f"could not be kept at step {job.step}: {problem}")
            if job.run is not None:
                job.run.training.abort()
            job.close()
            if self.queue.give_back(job.lease.spec.id, job.lease.attempt):
                job.log(f"given back at step {job.step}: lane {self.setup.name} is {why}")
        self._jobs.clear()

    def _lease_jobs(self) -> None:
        """Leases jobs while one more fits; a job for another base waits, leased, until those on this base are done."""
        while self._has_room and time.monotonic() >= self._next_lease:
            lease = self.queue.lease(self.setup.name, [job.lease.spec.id for job in self._jobs])
            if lease is None:
                self._next_lease = time.monotonic() + WAIT_SECONDS  # not at every step
                break
            job_log = JobLog(self.home.job_log(lease.spec.submission, lease.spec.id))
            self._jobs.append(LeasedJob(lease, Heartbeat(self.queue, lease), job_log))
            self._jobs[-1].log(f"attempt {lease.attempt}, lane {self.setup.name}")
            self._start_waiting_job()
        self._start_waiting_job()

    @property
    def _has_room(self) -> bool:
        largest = min((job.max_pack_size(self.setup.pack) for job in self._jobs), default=self.setup.pack)
        if len(self._jobs) >= largest or any(job.run is None for job in self._jobs):
            return False
        return self._pack.value is None or self._pack.value.has_memory

    def _start_waiting_job(self) -> None:
        waiting = next((job for job in self._jobs if job.run is None), None)
        if waiting is None or any(job.run is not None and job.base_key != waiting.base_key for job in self._jobs):
            return
        self.activity.begin(f"starting {waiting.lease.spec.adapter}")
        self._timeline.begin("start")
        try:
            if waiting.joining is None and (bundle := self._kept(waiting)) is not None:
                self._end(waiting, bundle)
                return
            run = self._joined(waiting)
        except (Cancelled, *FAILURES) as problem:
            self._end(waiting, problem, pack_size=len(self._jobs))
        else:
            if run is not None:
                waiting.started(run)

    def _kept(self, job: LeasedJob) -> Bundle | None:
        """The job's bundle if it was trained before; raises what would keep it from being published."""
        if not self._knows_runs:
            self.tracking.check_run(job.lease.run_id)
            self._knows_runs = True
        return kept(self.home.bundles / job.lease.spec.id, job.lease.spec.id)

    def _joined(self, waiting: LeasedJob) -> JobRun | None:
        """The job's run once it is in the pack; a pack that is under way takes a step between two pieces of that."""
        pack = self._pack.value
        if waiting.joining is not None:
            return waiting.prepared(pack is not None and pack.under_way)
        job = self._train_job(waiting)
        if pack is not None and pack.under_way:  # never where there are followers: their lane has one job at a time
            waiting.joining = pack.joining(job)
            return None
        with self._followers.starting(job.spec, self.home.checkpoints / waiting.lease.checkpoint_name):
            return self._pack.get(waiting.base_key, lambda: self._new_pack(*waiting.base_key)).join(job)

    def _train_job(self, waiting: LeasedJob) -> TrainJob:
        lease = waiting.lease
        return TrainJob(
            lease.spec,
            self.home.bundles / lease.spec.id,
            QueueTracker(partial(self.queue.record, lease.spec.id, lease.attempt)),
            waiting.on_step,
            run_id=lease.run_id,
            checkpoints=self.home.checkpoints / lease.checkpoint_name,
            trial=trial_of(lease.spec, waiting.compare, self.setup.device),
            process_group=self._followers.process_group,
            checkpoint_seconds=self.setup.resources.checkpoint_seconds,
            on_phase=self._timeline.begin,
        )

    def _new_pack(self, base_name: str, precision: str) -> Pack:
        self.activity.begin(f"loading {base_name}")
        self._timeline.begin("load")
        if self.setup.resources.exact:
            use_deterministic_algorithms(self.setup.device)
        base = LoadedBase.load(find_base(base_name, home=self.home), self.setup.device, precision)
        self._timeline.begin("start")
        return Pack(base, self.home.cache, batching_for(base, self.setup.resources, self.setup.pack, self.setup.rank))

    def _step(self) -> None:
        pack = self._pack.value
        assert pack is not None  # a job has joined it
        pack_size = len(pack.runs)
        self.activity.begin(f"training {pack_size} job{'s' * (pack_size != 1)}")
        self._timeline.begin("train")
        for run, end in pack.step():
            self._end(next(job for job in self._jobs if job.run is run), end, pack_size)

    def _end(self, job: LeasedJob, end: Bundle | Exception, pack_size: int = 1) -> None:
        """Ends a job: publishes its bundle, or reports its failure, or drops it if it is no longer this lane's."""
        try:
            if isinstance(end, Exception):
                raise end
            job.log("publishing")
            self._timeline.begin("publish")
            self.activity.begin(f"publishing {job.lease.spec.adapter}")
            made = publish(end, job.lease.run_id, self.tracking, job.heartbeat.check, job.lease.spec.promotion)
        except EarlyStopped as verdict:
            self._stopped(job, str(verdict))
        except Cancelled:
            job.log(
                "dropped: it was cancelled, or another lane has it now"
            )  # whoever did that has updated the job's row
        except FAILURES as problem:
            self._failed(job, problem, pack_size)
        except Exception as problem:
            self._lane_died(job, problem)
            raise
        else:
            if self.queue.finish(job.lease.spec.id, job.lease.attempt, "succeeded", made.version, None, made.unchanged):
                job.log(*told(end, made))
        finally:
            job.close()
            self._jobs.remove(job)
            self._usage.job_ended()

    def _stopped(self, job: LeasedJob, reason: str) -> None:
        """Ends a job that its sweep's trial stopped: nothing of it is published."""
        lease = job.lease
        if self.queue.finish(lease.spec.id, lease.attempt, "stopped", None, reason):
            job.log(reason)
            shutil.rmtree(self.home.checkpoints / lease.checkpoint_name, ignore_errors=True)

    def _failed(self, job: LeasedJob, problem: Exception, pack_size: int) -> None:
        """Reports a failure to the queue, which decides whether the job is tried again."""
        kind, lease = classify(problem), job.lease
        if not isinstance(problem, LorafleetError):
            job.log(*lines_of(problem))
        why = reason(problem, job.job_log.path)
        if kind == "memory" and job.run is not None and pack_size > 1:
            job.run.save_and_wait()  # in a smaller pack it goes on from here
        state = self.queue.fail(lease.spec.id, lease.attempt, kind, why, pack_size)
        job.log(f"{kind}: {why}" + (" (it is tried again)" if state == "queued" else ""))
        if kind == "lost" or self._followers.out_of_step(problem):
            raise problem  # this process cannot go on

    def _lane_died(self, job: LeasedJob, problem: Exception) -> None:
        """Writes into a job's log and row that the lane ends because of a problem that is not a failure of the job."""
        job.log(*lines_of(problem))
        if isinstance(problem, UnreachableError):
            return  # the queue does not answer; it notices by itself that this lane is gone
        why = f"its lane died of {reason(problem, job.job_log.path)}"
        self.queue.fail(job.lease.spec.id, job.lease.attempt, "lost", why, len(self._jobs))

    def _stalled(self, reason: str) -> None:
        """Reports that the lane hangs; called from the watchdog's thread."""
        for job in list(self._jobs):
            job.log(f"lane {self.setup.name} {reason}")
            self.queue.fail(job.lease.spec.id, job.lease.attempt, "stalled", f"its lane {reason}", len(self._jobs))
