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
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from lorafleet.bundle.bundle import Bundle
from lorafleet.errors import LorafleetError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import PlainCalls
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning
from lorafleet_jobs.train.base_step import BasePrediction, BaseStep, inputs_of, prior_inputs
from lorafleet_jobs.train.batching import DynamicBatching
from lorafleet_jobs.train.data.pieces import InPieces, Pieces
from lorafleet_jobs.train.job_run import FAILURES, Cancelled, JobRun, Pictures, TrainJob
from lorafleet_jobs.train.job_step import JobStep, Outcome, by_shape
from lorafleet_jobs.train.memory import MemoryBudget
from lorafleet_jobs.train.previews.pictures_together import PictureMaker
from lorafleet_jobs.train.prompts import conditioning_of
from lorafleet_jobs.train.trainable_state import PackedFactors
from lorafleet_jobs.train.training import Training
from lorafleet_jobs.train.trial import EarlyStopped

Ended = tuple[JobRun, Bundle | Exception]
"""A job that left its pack: with its bundle, or with what ended it."""


class Pack:
    """The jobs that are trained together over one base at the moment. To be used by one thread."""

    def __init__(self, base: LoadedBase, cache: Path | None = None, batching: DynamicBatching | None = None) -> None:
        """`cache` keeps latents and class images on disk; without it they are in memory only."""
        self.base, self.cache, self.batching = base, cache, batching or DynamicBatching()
        self.memory = MemoryBudget.beside(base.device)
        self.runs: list[JobRun] = []
        self.under_way = False
        """Whether jobs have begun to step that would wait for another to join."""
        self._maker = PictureMaker(base, self.batching)

    @property
    def has_memory(self) -> bool:
        """Whether the device is expected to hold one more job, judged by the present ones."""
        return self.memory.fits_one_more(len(self.runs))

    def join(self, job: TrainJob) -> JobRun:
        """Takes a job in before the next step; it resumes from its checkpoint if it has one. Raises DataError."""
        return self.joining(job).finish()

    def joining(self, job: TrainJob) -> InPieces[JobRun]:
        """The same in pieces, between which the pack may step; the job takes part in the steps after the last."""

        def pieces(thread: Executor) -> Pieces[JobRun]:
            run = yield from JobRun.preparing(job, self.base, self.cache, thread)
            self.runs.append(run)
            return run

        return InPieces(pieces)

    def step(self) -> list[Ended]:
        """One training step of every job; the jobs that ended with it leave the pack and are returned.

        A job that had taken its last step before it joined takes no more.
        """
        ends: dict[JobRun, Bundle | Exception | None] = dict.fromkeys(self.runs)
        stepping = [run for run in self.runs if not run.done]
        outcomes = self._outcomes(stepping)
        self.memory.measure(len(self.runs), self.base.device)
        for run, outcome in zip(stepping, outcomes, strict=True):
            ends[run] = _stepped(run, outcome, self.memory.peak)
        going = [run for run, end in ends.items() if end is None]
        for run, pictures in zip(going, self._pictures(going), strict=True):
            ends[run] = _end(run, pictures)
        self.runs = [run for run, end in ends.items() if end is None]
        self.under_way = bool(self.runs)
        for run in ends.keys() - self.runs:
            run.close()
        return [(run, end) for run, end in ends.items() if end is not None]

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

    def _pictures(self, runs: Sequence[JobRun]) -> list[Pictures | Exception]:
        """What each job wants to see after this step; if making it raises, what each wants alone, as for a step."""
        wanted = [run.wanted() for run in runs]
        with ExitStack() as stack:
            for run, sets in zip(runs, wanted, strict=True):
                if sets:
                    run.job.on_phase("preview")
                    stack.enter_context(run.training.ema_swapped_in())
            try:
                made = iter(self._maker.make([each for sets in wanted for own in sets.values() for each in own]))
                return [{name: list(islice(made, len(own))) for name, own in sets.items()} for sets in wanted]
            except FAILURES as problem:
                traceback.clear_frames(problem.__traceback__)
                if len(runs) == 1:
                    return [problem]
        return [pictures for run in runs for pictures in self._pictures([run])]


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
        _aim_at_prior([job for job in drawn if job.micro_batch.predicted], batching)  # F* of prior mode `predict`
        for shape, group in by_shape(drawn, attrgetter("shape")):
            # condition, predict F, loss w |F - F*|^2, backward
            for called, (losses, gradients) in batching.run(shape, group, forward_backward):
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
    batching.most_rows = max(batching.most_rows, len(inputs["x"]))
    by_name = dict(zip(step.trained, gradients, strict=True))
    of_unet = [_unet_gradient(job, i, factors, by_name) for i, job in enumerate(jobs)]
    of_text = _text_gradients(jobs, text, by_name)
    return losses[: len(jobs)], [(*unet, *rest) for unet, rest in zip(of_unet, of_text, strict=True)]


def predict_prior(jobs: Sequence[JobStep], slots: Sequence[JobStep], batching: DynamicBatching) -> Tensor:
    """F [slots, rows of a job, c, h, w] of the base without adapters for the prior rows of jobs of one shape."""
    texts = [job.training.prompts.of_base(job.prior_captions) for job in jobs]
    inputs = prior_inputs([job.micro_batch for job in slots], [*texts, *texts[:1] * (len(slots) - len(jobs))])
    F = BasePrediction().ask(batching.calls, slots[0].training.base, inputs)
    by_slot: Tensor = F.unflatten(0, (len(slots), -1))
    return by_slot


def train_step_alone(training: Training, step: int) -> float:
    """One optimizer step of one job, counted from 1; returns its loss. Raises DataError or NonFiniteError."""
    (outcome,) = train_step([(training, step)])
    if isinstance(outcome, LorafleetError):
        raise outcome
    return outcome


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


@torch.no_grad()
def _aim_at_prior(jobs: Sequence[JobStep], batching: DynamicBatching) -> None:
    """Asks the base for what prior mode `predict` keeps it to, once for all jobs of one shape."""
    for shape, group in by_shape(jobs, attrgetter("prior_shape")):
        for called, predictions in batching.without_gradients.run(shape, group, predict_prior):
            for job, F in zip(called, predictions, strict=False):  # free slots come last
                job.aim(F)


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


def _stepped(run: JobRun, outcome: Outcome | Exception, peak: float | None) -> Exception | None:
    """What ended a job with its step, whose peak of allocated memory is in MiB; None if nothing did."""
    if isinstance(outcome, Exception):
        return outcome
    try:
        run.stepped(outcome, peak)
    except (Cancelled, *FAILURES) as problem:
        return _aborted(run, problem)
    return None


def _end(run: JobRun, pictures: Pictures | Exception) -> Bundle | Exception | None:
    """How a job ended once a step and its pictures were made; None if it goes on."""
    if isinstance(pictures, Exception):
        return _aborted(run, pictures)
    try:
        run.after(pictures)
        return run.bundle() if run.done else None
    except (Cancelled, EarlyStopped, *FAILURES) as problem:
        return _aborted(run, problem)


def _aborted(run: JobRun, problem: Exception) -> Exception:
    """The problem, once the job's other ranks were told; after the last step none of them waits."""
    if not run.done:
        run.training.abort()
    return problem
