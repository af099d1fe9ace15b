"""One job from its first step to its bundle, and a crew of them on one base: who joins, who has ended, and how.

Knows steps, validation and publishing; refuses to know leases, Ray and MLflow. Whoever runs a crew passes trackers, is
told of each step, and gets each job's end.
"""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from lorafleet.bundle.bundle import Bundle
from lorafleet.bundle.ports import JobTracker
from lorafleet.errors import LorafleetError
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.batching import DynamicBatching
from lorafleet_jobs.train.checkpoint import resume, save_checkpoint
from lorafleet_jobs.train.data_parallel import SingleRank
from lorafleet_jobs.train.memory import MemoryBudget
from lorafleet_jobs.train.pack import Outcome, step_alone, step_together
from lorafleet_jobs.train.progress import History, Progress
from lorafleet_jobs.train.training import Training
from lorafleet_jobs.train.trial import EarlyStopped, NoTrial, Trial
from lorafleet_jobs.train.validate import Validator
from lorafleet_jobs.train.write_bundle import publishable

FAILURES = (LorafleetError, OSError, RuntimeError, ValueError, ArithmeticError, ImportError)
"""What fails one job, and would in every lane; anything else is a defect, and ends the lane."""
CHECKPOINT_SECONDS = 60.0
"""What an interruption can cost of a job; writing one takes a fraction of a second."""
OnStep = Callable[[int, float], None]
Doing = Literal["preview", "checkpoint", "bundle"]


class Cancelled(Exception):  # noqa: N818  a wish, not an error
    """Raised by `on_step` to stop a training between two steps."""


@dataclass(frozen=True)
class TrainJob:
    """What to train, and whom to tell."""

    spec: JobSpec
    out: Path
    """Where the bundle goes."""
    tracker: JobTracker
    on_step: OnStep
    """Told (step, loss) after every step, counted from 1; may raise Cancelled."""
    run_id: str | None = None
    checkpoints: Path | None = None
    """Where the job is kept half-way, and where an interrupted one goes on from; None for neither."""
    contest: Trial = field(default_factory=NoTrial)
    """Compares the job with others on the way, and may end it."""
    team: SingleRank = field(default_factory=SingleRank)
    """The job's workers; the first one has an order, the others are each a `Follower`."""
    checkpoint_seconds: float = field(default_factory=lambda: CHECKPOINT_SECONDS)
    """How often it is kept."""
    doing: Callable[[Doing], None] = lambda _: None
    """Told what takes longer than a step, when it begins."""


class JobRun:
    """One job under way."""

    def __init__(self, order: TrainJob, warm: LoadedBase, cache: Path | None = None) -> None:
        """Reads the images and goes on where the job was; a new one shows what the base makes of the prompts.

        Raises DataError.
        """
        self.order = order
        self.training = Training.prepare(order.spec, warm, cache, order.team)
        self.validator = Validator(order.spec, warm, self.training.prompts, self.training.learned)
        folder = order.checkpoints
        history = History() if folder is None else resume(folder, self.training)
        self.step = history.step
        self.progress = Progress(order.tracker, order.spec, order.on_step, history)
        self.saved = time.monotonic()
        if self.step == 0:
            order.doing("preview")
            self.validator.log_base(order.tracker)

    def after(self, loss: float, peak: float | None = None) -> None:
        """One step has been taken, with so much memory in MiB. Raises what `on_step` and the contest raise."""
        self.step += 1
        self.progress.after(self.step, loss, self.training.optimizer, peak)
        contest, tracker, pictures = self.order.contest, self.order.tracker, list[Image.Image]()
        compared = contest.is_due(self.step)
        if self.validator.is_due(self.step) or (compared and contest.looks):
            self.order.doing("preview")
            with self.training.published():
                pictures = self.validator.log(tracker, self.step)
        if compared:
            contest.judge(self.step, pictures, self.progress.losses, tracker)
        if not self.done and time.monotonic() - self.saved >= self.order.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Keeps the job as it is now, if it is kept half-way at all. Raises OSError."""
        if self.order.checkpoints is not None:
            self.order.doing("checkpoint")
            save_checkpoint(self.order.checkpoints, self.training, self.progress.history(self.step))
        self.saved = time.monotonic()

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self.step == self.order.spec.steps

    def bundle(self) -> Bundle:
        """Writes what was learned, whole or not at all."""
        spec, training = self.order.spec, self.training
        with training.published():
            self.order.doing("preview")
            preview = self.validator.preview()
            self.order.doing("bundle")
            made = publishable(
                spec, training.warm, training.learned, preview, self.progress.summary(), self.order.run_id,
                self.order.out,
            )  # fmt: skip
        if self.order.checkpoints is not None:
            shutil.rmtree(self.order.checkpoints, ignore_errors=True)
        return made


Ended = tuple[JobRun, Bundle | Exception]
"""A job that left its crew: with its bundle, or with what ended it."""


class Pack:
    """The jobs that step together over one base now. One thread's own."""

    def __init__(self, warm: LoadedBase, cache: Path | None = None, calls: DynamicBatching | None = None) -> None:
        self.warm, self.cache, self.calls = warm, cache, calls or DynamicBatching()
        self.room = MemoryBudget.beside(warm.device)
        self.runs: list[JobRun] = []

    @property
    def has_room(self) -> bool:
        """Whether the device is expected to hold one more job, by what the present ones take."""
        return self.room.has_room_beside(len(self.runs))

    def join(self, order: TrainJob) -> JobRun:
        """Takes a job in, before the next step. Raises DataError."""
        run = JobRun(order, self.warm, self.cache)
        self.runs.append(run)
        return run

    def step(self) -> list[Ended]:
        """One step of every job; returns those that ended with it."""
        outcomes = self._outcomes(self.runs)
        self.room.measure(len(self.runs), self.warm.device)
        ends = [(run, _end(run, loss, self.room.peak)) for run, loss in zip(self.runs, outcomes, strict=True)]
        self.runs = [run for run, end in ends if end is None]
        return [(run, end) for run, end in ends if end is not None]

    def _outcomes(self, runs: Sequence[JobRun]) -> Sequence[Outcome | Exception]:
        """If a step fails for all, each job is asked alone, so that the one to blame fails and the others do not.

        Nothing has been moved before every answer is there, so asking again takes no step twice.
        """
        try:
            return step_together([(run.training, run.step + 1) for run in runs], self.calls)
        except FAILURES as problem:
            if len(runs) == 1:
                traceback.clear_frames(problem.__traceback__)  # they keep what the next job may need room for
                return [problem]
        return [outcome for run in runs for outcome in self._outcomes([run])]


def _end(run: JobRun, loss: Outcome | Exception, peak: float | None) -> Bundle | Exception | None:
    """How a job ended with this step, at whose height so many MiB were allocated; None if it goes on."""
    if isinstance(loss, Exception):
        return loss
    try:
        run.after(loss, peak)
        return run.bundle() if run.done else None
    except (Cancelled, EarlyStopped, *FAILURES) as problem:
        if not run.done:
            run.training.give_up()
        return problem


class Follower:
    """A further worker's part in a job: every step with the others, and nothing else."""

    def __init__(
        self,
        spec: JobSpec,
        warm: LoadedBase,
        team: SingleRank,
        checkpoints: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """Stands where the first worker does before it begins. Raises DataError."""
        self.training = Training.prepare(spec, warm, cache, team)
        self.step = 0 if checkpoints is None else resume(checkpoints, self.training).step

    def run(self) -> None:
        """Ends when the job does. Raises DataError, or NonFiniteError if the job or another worker failed."""
        while self.step < self.training.spec.steps:
            self.step += 1
            step_alone(self.training, self.step)


def train_job(
    spec: JobSpec,
    warm: LoadedBase,
    out: Path,
    tracker: JobTracker,
    on_step: OnStep,
    run_id: str | None = None,
    cache: Path | None = None,
) -> Bundle:
    """Trains one adapter alone on a warm base and writes its bundle to `out`; `cache` keeps latents and class images.

    Raises DataError, NonFiniteError, or what `on_step` raises. The base is as before afterwards, whatever happens.
    """
    crew = Pack(warm, cache)
    crew.join(TrainJob(spec, out, tracker, on_step, run_id))
    while True:
        for _, end in crew.step():
            if isinstance(end, Bundle):
                return end
            raise end
