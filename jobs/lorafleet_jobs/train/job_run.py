"""One job under way, from its first step to its bundle: progress, validation pictures, checkpoints.

Knows steps, validation and what is written; refuses to know leases, Ray and MLflow. Whoever runs a job passes a tracker
and callbacks.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from lorafleet.bundle.bundle import Bundle
from lorafleet.bundle.change import FROM_BASE, FROM_UNTRAINED, FROM_WORDS
from lorafleet.bundle.ports import JobTracker
from lorafleet.errors import LorafleetError
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.checkpoint import CheckpointWriter, resume
from lorafleet_jobs.train.data.contact_strip import contact_strip
from lorafleet_jobs.train.data.pieces import Pieces, awaited
from lorafleet_jobs.train.data_parallel import Ranks, SingleRank
from lorafleet_jobs.train.previews.pictures_together import WantedPicture
from lorafleet_jobs.train.previews.validate import Validator, mean_difference, sheet
from lorafleet_jobs.train.progress import History, Progress
from lorafleet_jobs.train.prompts import JobPrompts
from lorafleet_jobs.train.training import Training
from lorafleet_jobs.train.trial import NoTrial, Trial
from lorafleet_jobs.train.write_bundle import write_bundle

FAILURES = (LorafleetError, OSError, RuntimeError, ValueError, ArithmeticError, ImportError)
"""Exceptions that fail one job and would fail it on every lane: bad data or settings, a full disk, too little memory, a
missing package. Any other exception is a defect of the program and ends the lane."""
CHECKPOINT_SECONDS = 60.0
"""Between two checkpoints: the most that an interruption can cost a job."""
OnStep = Callable[[int, float], None]
Phase = Literal["preview", "checkpoint", "bundle"]
PictureSet = Literal["base", "untrained", "words", "adapted"]
"""The base's pictures of a job's prompts, those of the job before its first step, those with its learned tokens alone,
and those with its adapter."""
Pictures = Mapping[PictureSet, Sequence[Image.Image]]


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
        self,
        job: TrainJob,
        training: Training,
        history: History,
        untrained: JobPrompts,
        photos: Image.Image | None = None,
    ) -> None:
        """`history` is that of the lives before this one, whose end the training begins from.

        `untrained` has the tokens from before the first step. `photos` are shown beside the first prompt's pictures.
        """
        self.job, self.training = job, training
        self.validator = Validator(job.spec, training.prompts)
        self.step = history.step
        self.progress = Progress(job.tracker, job.spec, job.on_step, history)
        self.saved = time.monotonic()
        self._checkpoints = None if job.checkpoints is None else CheckpointWriter(job.checkpoints)
        self._shows_base = self.step == 0
        self._untrained = untrained
        self._pictures: Pictures = {}
        self._changes: dict[str, float] = {}
        if photos is not None:
            job.tracker.image(f"{self.validator.names[0]}/training photos", 0, photos)

    @classmethod
    def preparing(cls, job: TrainJob, base: LoadedBase, cache: Path | None, thread: Executor) -> Pieces[JobRun]:
        """Reads the images, and resumes from the newest checkpoint, in pieces. Raises DataError."""
        training = yield from Training.preparing(job.spec, base, cache, job.process_group, thread)
        untrained = JobPrompts(job.spec, base, training.trainable.words_alone())  # a checkpoint has later tokens
        history, photos = History(), None
        if job.checkpoints is not None:
            history = yield from awaited(thread.submit(resume, job.checkpoints, training))
        if history.step == 0:
            photos = yield from awaited(thread.submit(contact_strip, job.spec))
        return cls(job, training, history, untrained, photos)

    def stepped(self, loss: float, peak: float | None = None) -> None:
        """Counts and reports a training step.

        `peak` is the most memory that the device has had allocated, in MiB. Raises what `on_step` raises.
        """
        self.step += 1
        self.progress.after(self.step, loss, self.training.optimizer, peak)

    def wanted(self) -> dict[PictureSet, list[WantedPicture]]:
        """The pictures that the job wants after this step, to be made with its moving average swapped in.

        A new job shows the base's after its first step, and the preview of a bundle those of the last.
        """
        sets, trial = dict[PictureSet, list[WantedPicture]](), self.job.trial
        if self._shows_base or self.done:
            sets["base"] = self.validator.of_base()
        if self.done:
            sets["words"] = self.validator.words_only()
            sets["untrained"] = self.validator.untrained(self._untrained)
        if self.validator.is_due(self.step) or (trial.is_due(self.step) and trial.wants_pictures):
            sets["adapted"] = self.validator.adapted()
        return sets

    def after(self, pictures: Pictures) -> None:
        """What follows a step once the wanted pictures are made, in this order: they, the trial, a checkpoint.

        Raises what the trial raises.
        """
        trial, tracker, self._pictures = self.job.trial, self.job.tracker, pictures
        if self._shows_base:
            self.validator.log_base(tracker, pictures["base"])
            self._shows_base = False
        if words := pictures.get("words"):
            self.validator.log_words(tracker, words)
            self._changes = changes(pictures)
            tracker.metrics(self.step, self._changes)
        if adapted := pictures.get("adapted", []):
            self.validator.log_adapted(tracker, self.step, adapted)
        if trial.is_due(self.step):
            trial.report(self.step, adapted, self.progress.losses, tracker)
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
        """Writes the bundle, whole or not at all, and removes the checkpoints.

        Its preview shows the pictures of the last step, one row a prompt: base | words only | adapter.
        """
        job, training, pictures = self.job, self.training, self._pictures
        with training.ema_swapped_in():
            job.on_phase("bundle")
            bundle = write_bundle(
                job.spec,
                training.base,
                training.trainable,
                preview=sheet([pictures["base"], pictures["words"], pictures["adapted"]]),
                metrics=self.progress.summary() | self._changes,
                run_id=job.run_id,
                out=job.out,
            )
        self.close()
        if job.checkpoints is not None:
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        return bundle


def changes(pictures: Pictures) -> dict[str, float]:
    """How far the last pictures with the adapter are from the others, in levels of 255, as metrics."""
    others: dict[str, PictureSet] = {FROM_BASE: "base", FROM_WORDS: "words", FROM_UNTRAINED: "untrained"}
    return {key: mean_difference(pictures["adapted"], pictures[name]) for key, name in others.items()}
