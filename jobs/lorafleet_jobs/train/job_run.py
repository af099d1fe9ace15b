"""One job under way, from its first step to its bundle: progress, validation pictures, checkpoints.

Knows steps, validation and what is written; refuses to know leases, Ray and MLflow. Whoever runs a job passes a tracker
and callbacks.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from lorafleet.bundle.bundle import Bundle
from lorafleet.bundle.ports import JobTracker
from lorafleet.errors import LorafleetError
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.checkpoint import CheckpointWriter, resume
from lorafleet_jobs.train.data.contact_strip import contact_strip
from lorafleet_jobs.train.data_parallel import Ranks, SingleRank
from lorafleet_jobs.train.progress import History, Progress
from lorafleet_jobs.train.training import Training
from lorafleet_jobs.train.trial import NoTrial, Trial
from lorafleet_jobs.train.validate import BasePictures, Validator
from lorafleet_jobs.train.write_bundle import write_bundle

FAILURES = (LorafleetError, OSError, RuntimeError, ValueError, ArithmeticError, ImportError)
"""Exceptions that fail one job and would fail it on every lane: bad data or settings, a full disk, too little memory, a
missing package. Any other exception is a defect of the program and ends the lane."""
CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints: the most that an interruption can cost a job."""
OnStep = Callable[[int, float], None]
Phase = Literal["preview", "checkpoint", "bundle"]


class Cancelled(Exception):  # noqa: N818  a wish, not an error
    """Raised by `on_step` to stop a training between two steps."""


@dataclass(frozen=True)
class TrainJob:
    """What to train, and who is told of it."""

    spec: JobSpec
    out: Path
    """The folder that the bundle is written to."""
    tracker: JobTracker
    on_step: OnStep
    """Called with (step, loss) after every step, counted from 1; may raise Cancelled."""
    run_id: str | None = None
    checkpoints: Path | None = None
    """The folder of the job's checkpoints, which an interrupted job resumes from; None for no checkpoints."""
    trial: Trial = field(default_factory=NoTrial)
    """Compares the job with others at some of its steps, and may stop it early."""
    process_group: Ranks = field(default_factory=SingleRank)
    """The job's ranks. Rank 0 has a `TrainJob`; each further rank is a `Follower`."""
    checkpoint_seconds: float = field(default_factory=lambda: CHECKPOINT_SECONDS)
    """Seconds between two checkpoints."""
    on_phase: Callable[[Phase], None] = lambda _: None
    """Called when something begins that takes longer than a step."""


class JobRun:
    """One job under way."""

    def __init__(
        self, job: TrainJob, base: LoadedBase, cache: Path | None = None, pictures: BasePictures | None = None
    ) -> None:
        """Reads the images, and resumes from the newest checkpoint; a new job logs its photos and the base's pictures.

        `pictures` are those of the base that jobs share. Raises DataError.
        """
        self.job = job
        self.training = Training.prepare(job.spec, base, cache, job.process_group)
        self.validator = Validator(job.spec, base, self.training.prompts, self.training.trainable, pictures)
        history = History() if job.checkpoints is None else resume(job.checkpoints, self.training)
        self.step = history.step
        self.progress = Progress(job.tracker, job.spec, job.on_step, history)
        self.saved = time.monotonic()
        self._checkpoints = None if job.checkpoints is None else CheckpointWriter(job.checkpoints)
        if self.step == 0:
            job.on_phase("preview")
            photos = f"{self.validator.names[0]}/training photos"  # beside the first prompt's pictures
            job.tracker.image(photos, 0, contact_strip(job.spec))
            self.validator.log_base(job.tracker)

    def after(self, loss: float, peak: float | None = None) -> None:
        """What follows a training step, in this order: progress, validation pictures, the trial, a checkpoint.

        `peak` is the most memory that the device has had allocated, in MiB. Raises what `on_step` and the trial raise.
        """
        self.step += 1
        self.progress.after(self.step, loss, self.training.optimizer, peak)
        trial, tracker, pictures = self.job.trial, self.job.tracker, list[Image.Image]()
        compared = trial.is_due(self.step)
        if self.validator.is_due(self.step) or (compared and trial.wants_pictures):
            self.job.on_phase("preview")
            with self.training.ema_swapped_in():
                pictures = self.validator.log(tracker, self.step)
        if compared:
            trial.report(self.step, pictures, self.progress.losses, tracker)
        if not self.done and time.monotonic() - self.saved >= self.job.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        """Begins to write a checkpoint, if the job has a folder for them. Raises OSError if the last one failed."""
        if self._checkpoints is not None:
            self.job.on_phase("checkpoint")
            self._checkpoints.save(self.training, self.progress.history(self.step))
        self.saved = time.monotonic()

    def save_and_wait(self) -> None:
        """Writes a checkpoint from which another lane may go on as soon as this returns. Raises OSError."""
        if self._checkpoints is not None:
            self.job.on_phase("checkpoint")
            self._checkpoints.save_now(self.training, self.progress.history(self.step))
        self.saved = time.monotonic()

    def close(self) -> None:
        """Ends what the job does beside its steps; its files are nobody's from then on."""
        if self._checkpoints is not None:
            self._checkpoints.close()

    @property
    def done(self) -> bool:
        """Whether every step has been taken."""
        return self.step == self.job.spec.steps

    def bundle(self) -> Bundle:
        """Writes the bundle, whole or not at all, and removes the checkpoints."""
        job, training = self.job, self.training
        with training.ema_swapped_in():
            job.on_phase("preview")
            preview = self.validator.preview()
            job.on_phase("bundle")
            bundle = write_bundle(
                job.spec,
                training.base,
                training.trainable,
                preview=preview,
                metrics=self.progress.summary(),
                run_id=job.run_id,
                out=job.out,
            )
        self.close()
        if job.checkpoints is not None:
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        return bundle
