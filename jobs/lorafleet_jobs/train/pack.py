"""A pack: jobs that are trained together over one base, and the training step that they take.

Each job has its own rows in the batch, its own adapter on them and its own loss. What a job learns is what it would
learn alone, to floating-point tolerance: rows of a batch do not see each other, losses are summed and never averaged
over jobs, and every gradient is taken with respect to one job's parameters only. Micro-batches of one shape share a
forward and a backward pass of the base (`batching` decides how many); the other shapes follow within the same step, so
that any mixture of jobs can be packed.

`Pack` says who joins and who leaves, `train_step` is the step, and `forward_backward` is its call of the base. Knows
trainings and the base; refuses to know what a job reports, saves and publishes (`job_run`).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lorafleet.bundle.bundle import Bundle
from lorafleet.errors import LorafleetError, NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import PlainCalls
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import UNET
from lorafleet_jobs.train.base_step import BaseStep, inputs_of
from lorafleet_jobs.train.batching import DynamicBatching
from lorafleet_jobs.train.job_run import FAILURES, Cancelled, JobRun, TrainJob
from lorafleet_jobs.train.memory import MemoryBudget
from lorafleet_jobs.train.prompts import conditioning_of
from lorafleet_jobs.train.trainable_state import LowRank, PackedFactors
from lorafleet_jobs.train.training import MicroBatch, Training
from lorafleet_jobs.train.trial import EarlyStopped
from lorafleet_jobs.train.validate import new_base_pictures

Outcome = float | LorafleetError
"""A job's loss of one step, the mean over its micro-batches; or the error because of which nothing was updated."""
Ended = tuple[JobRun, Bundle | Exception]
"""A job that left its pack: with its bundle, or with what ended it."""


class Pack:
    """The jobs that are trained together over one base at the moment. To be used by one thread."""

    def __init__(self, base: LoadedBase, cache: Path | None = None, batching: DynamicBatching | None = None) -> None:
        """`cache` keeps latents and class images on disk; without it they are in memory only."""
        self.base, self.cache, self.batching = base, cache, batching or DynamicBatching()
        self.memory = MemoryBudget.beside(base.device)
        self.runs: list[JobRun] = []
        self._pictures = new_base_pictures()

    @property
    def has_memory(self) -> bool:
        """Whether the device is expected to hold one more job, judged by what the present ones take."""
        return self.memory.fits_one_more(len(self.runs))

    def join(self, job: TrainJob) -> JobRun:
        """Takes a job in before the next step; it resumes from its checkpoint if it has one. Raises DataError."""
        run = JobRun(job, self.base, self.cache, self._pictures)
        self.runs.append(run)
        return run

    def step(self) -> list[Ended]:
        """One training step of every job; the jobs that ended with it leave the pack and are returned."""
        outcomes = self._outcomes(self.runs)
        self.memory.measure(len(self.runs), self.base.device)
        ends = [(run, _end(run, outcome, self.memory.peak)) for run, outcome in zip(self.runs, outcomes, strict=True)]
        self.runs = [run for run, end in ends if end is None]
        ended = [(run, end) for run, end in ends if end is not None]
        for run, _ in ended:
            run.close()
        return ended

    def _outcomes(self, runs: Sequence[JobRun]) -> Sequence[Outcome | Exception]:
        """The step of all jobs; if it raises, the step of each job alone, so that only the job to blame fails.

        No optimizer steps before all gradients of the pack are there, so repeating the step updates nothing twice.
        """
        try:
            return train_step([(run.training, run.step + 1) for run in runs], self.batching)
        except FAILURES as problem:
            if len(runs) == 1:
                traceback.clear_frames(problem.__traceback__)  # they hold memory that the next job may need
                return [problem]
        return [outcome for run in runs for outcome in self._outcomes([run])]


def train_step(jobs: Sequence[tuple[Training, int]], batching: DynamicBatching | None = None) -> list[Outcome]:
    """The training step, top to bottom: one optimizer step of each job, each with its own step number counted from 1.

    `batching` is the pack's own: it remembers how many jobs fit in memory. A job that fails leaves the others as they
    are. Raises torch.OutOfMemoryError if not even one job alone fits.
    """
    batching = batching or DynamicBatching()
    steps = [JobStep(training, step) for training, step in jobs]
    for job in steps:
        job.training.begin(job.step)  # freeze what is no longer trained, zero the gradients
    for i in range(max((job.accumulation for job in steps), default=0)):
        drawn = [job for job in steps if job.draw(i)]  # batch, noise, target F*, weight w
        for group in _of_one_shape(drawn):
            # condition, predict F, loss w |F - F*|^2, backward
            calls = batching.run(group[0].shape, group, forward_backward)
            for called, (losses, gradients) in calls:
                for job, loss, own in zip(called, losses, gradients, strict=True):
                    job.add(loss, own)
    return _finish(steps)


def forward_backward(
    jobs: Sequence[JobStep], slots: Sequence[JobStep], batching: DynamicBatching
) -> tuple[Tensor, list[tuple[Tensor | None, ...]]]:
    """Losses [jobs] and gradients of the micro-batches of `jobs`, all of one shape, from one call of the base.

    `slots` are the jobs whose rows make up the batch: `jobs` first, then repetitions that fill a batch of fixed size
    and weigh nothing. The gradients of a job are in the order of its training's `trained()`.
    """
    base, dropout = slots[0].training.base, _dropout(slots)
    asked = [(job.training.prompts, job.micro_batch.captions, _dropout([job])) for job in jobs]
    texts = conditioning_of(asked, batching.calls)
    text = Conditioning.cat([*texts, *[texts[0]] * (len(slots) - len(jobs))])
    factors = _factors(slots, batching)
    inputs = inputs_of([job.micro_batch for job in slots], len(jobs), text, factors)
    step = BaseStep(
        slots=len(slots),
        layout=None if factors is None else factors.layout,
        trained=_trained(jobs, text),
        checkpointing=slots[0].training.spec.recipe.gradient_checkpointing is True,
    )
    # predict F, loss w |F - F*|^2, backward: of tensors alone, so that it can be recorded
    key = (step, *[(name, tensor.shape) for name, tensor in inputs.items()])
    calls = batching.calls if dropout is None else PlainCalls()  # dropout draws from generators of its own
    losses, *gradients = calls(key, partial(step, base=base, unet=batching.unet, dropout=dropout), inputs)
    by_name = dict(zip(step.trained, gradients, strict=True))
    of_unet = [_unet_gradient(job, i, factors, by_name) for i, job in enumerate(jobs)]
    of_text = _text_gradients(jobs, text, by_name)
    return losses[: len(jobs)], [(*unet, *rest) for unet, rest in zip(of_unet, of_text, strict=True)]


def train_step_alone(training: Training, step: int) -> float:
    """One optimizer step of one job, counted from 1; returns its loss. Raises DataError or NonFiniteError."""
    (outcome,) = train_step([(training, step)])
    if isinstance(outcome, LorafleetError):
        raise outcome
    return outcome


@dataclass
class JobStep:
    """One job's part in a training step."""

    training: Training
    step: int
    """Counted from 1."""
    loss: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """The mean over the step's micro-batches, as far as they have been added; on the device."""
    error: LorafleetError | None = None
    """Why the job cannot take this step, for instance because of a damaged image."""
    micro_batch: MicroBatch = field(init=False)
    """The last one drawn."""

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return self.training.spec.recipe.gradient_accumulation

    @property
    def low_rank(self) -> LowRank | None:
        """The job's factors on the UNet."""
        return self.training.trainable.low_rank.get(UNET)

    @property
    def trains_unet(self) -> bool:
        """Whether the job still trains them."""
        return self.low_rank is not None and self.low_rank.flat.requires_grad

    @property
    def shape(self) -> tuple[object, ...]:
        """What micro-batches of one call have in common: rows, their size, checkpointing, chunks of their captions."""
        drawn = self.micro_batch
        return (*drawn.noisy.x.shape, self.training.spec.recipe.gradient_checkpointing, drawn.chunks)

    def draw(self, i: int) -> bool:
        """Draws the i-th micro-batch of the step; False if the job has none, or it is another rank's, or it failed."""
        if i >= self.accumulation or self.error is not None or not self.training.process_group.is_mine(i):
            return False
        try:
            self.micro_batch = self.training.micro_batch((self.step - 1) * self.accumulation + i)
        except LorafleetError as problem:
            self.error = problem
            return False
        return True

    def add(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Adds the loss and the gradients of the micro-batch to the step's means."""
        self.training.add_gradients(gradients, 1 / self.accumulation)
        self.loss = self.loss.to(loss.device) + loss.double() / self.accumulation

    def draw_ahead(self) -> None:
        """Draws the first micro-batch of the next step."""
        if self.step < self.training.spec.steps and self.training.process_group.is_mine(0):
            self.training.draw_ahead(self.step * self.accumulation)

    def finish(self, loss: float, norm: float) -> Outcome:
        """Updates the job's parameters, and returns the loss; or returns the error, having updated nothing."""
        try:
            self.training.update(self.step, loss, norm)
        except NonFiniteError as problem:
            return problem
        return loss


def _finish(steps: Sequence[JobStep]) -> list[Outcome]:
    """The end of a step: all-reduce, clip, optimizer step, schedule, moving average.

    Losses and norms of all jobs are read at once: the only time that a step waits for the device, which has work until
    then, while the next micro-batches are drawn.
    """
    going = [job for job in steps if job.error is None]
    closed = [job.training.close(job.loss) for job in going]
    for job in steps:
        if job.error is not None:
            job.training.abort()
        else:
            job.draw_ahead()
    read = dict(zip(map(id, going), torch.stack(closed).tolist() if closed else [], strict=True))
    return [job.finish(*read[id(job)]) if job.error is None else job.error for job in steps]


def _of_one_shape(steps: Sequence[JobStep]) -> list[list[JobStep]]:
    groups: dict[tuple[object, ...], list[JobStep]] = {}
    for job in steps:
        groups.setdefault(job.shape, []).append(job)
    return list(groups.values())


def _factors(slots: Sequence[JobStep], batching: DynamicBatching) -> PackedFactors | None:
    """The factors on the UNet of the jobs of all slots; None if no job has any."""
    low_rank = [job.low_rank for job in slots]
    layouts = [each.layout for each in low_rank if each is not None]
    if not layouts:
        return None
    with torch.no_grad():
        return PackedFactors.of(low_rank, [job.training.trainable.scale for job in slots], batching.layout(layouts))


def _trained(jobs: Sequence[JobStep], text: Conditioning) -> tuple[str, ...]:
    """The inputs whose gradients are wanted."""
    unet = ("flat",) if any(job.trains_unet for job in jobs) else ()
    return (*unet, "context", "pooled") if text.context.requires_grad else unet


def _unet_gradient(
    job: JobStep, i: int, factors: PackedFactors | None, gradients: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """The gradient of the factors of the i-th job of a call; nothing if they are not trained."""
    if not job.trains_unet or job.low_rank is None or factors is None:
        return ()
    scale = job.training.trainable.scale
    return (factors.layout.extract(job.low_rank.layout, gradients["flat"][i], scale),)


def _text_gradients(
    jobs: Sequence[JobStep], text: Conditioning, gradients: Mapping[str, Tensor]
) -> list[tuple[Tensor | None, ...]]:
    """The gradients of what each job trains beside the UNet; None for a parameter that no caption has used."""
    unet = {id(job.low_rank.flat) for job in jobs if job.low_rank is not None}
    own = [[each for each in job.training.trained() if id(each) not in unet] for job in jobs]
    if "context" not in gradients:
        return [(None,) * len(parameters) for parameters in own]
    outputs = [(text.context, gradients["context"]), (text.pooled, gradients["pooled"])]
    tensors, grads = zip(*outputs, strict=True)
    flat = iter(torch.autograd.grad(tensors, [p for parameters in own for p in parameters], grads, allow_unused=True))
    return [tuple(next(flat) for _ in parameters) for parameters in own]


def _dropout(steps: Sequence[JobStep]) -> RowDropout | None:
    rates, seeds = zip(*(job.micro_batch.dropout for job in steps), strict=True)
    return RowDropout(rates, seeds) if any(rates) else None


def _end(run: JobRun, outcome: Outcome | Exception, peak: float | None) -> Bundle | Exception | None:
    """How a job ended with this step, whose peak of allocated memory is in MiB; None if it goes on."""
    if isinstance(outcome, Exception):
        return outcome
    try:
        run.after(outcome, peak)
        return run.bundle() if run.done else None
    except (Cancelled, EarlyStopped, *FAILURES) as problem:
        if not run.done:
            run.training.abort()
        return problem
