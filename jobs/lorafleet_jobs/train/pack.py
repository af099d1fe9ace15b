"""Jobs that step together over one base: each has its own rows in the batch, its own adapter on them, its own loss.

A job's result is what it would be alone, to floating-point tolerance: rows of a batch do not see each other, losses are
summed and never averaged over jobs, and every gradient is of one job's parameters only. Micro-batches of equal size
share calls of the base (`calls` says how); others take turns within the step, so that no mixture is refused. Knows
trainings and the base; refuses to know when a job starts, ends and reports (`run`).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafleet.errors import LorafleetError, NonFiniteError
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import UNET
from lorafleet_jobs.train.batching import DynamicBatching
from lorafleet_jobs.train.learned import stacked
from lorafleet_jobs.train.training import MicroBatch, Training


@dataclass(frozen=True)
class Asked:
    """One job's micro-batch on its way through the base."""

    training: Training
    question: MicroBatch

    @property
    def shape(self) -> tuple[object, ...]:
        """What micro-batches of one call have in common: rows, their size, checkpointing, chunks of their captions."""
        return (*self.question.noisy.x.shape, self.training.spec.recipe.gradient_checkpointing, self.question.chunks)


Outcome = float | LorafleetError
"""A step's loss, the mean over its micro-batches, or why the job was not moved: bad data, or what is not finite."""


def step_alone(training: Training, step: int) -> float:
    """One optimizer step of one job, counted from 1; returns its loss. Raises DataError or NonFiniteError."""
    (outcome,) = step_together([(training, step)])
    if isinstance(outcome, LorafleetError):
        raise outcome
    return outcome


def step_together(jobs: Sequence[tuple[Training, int]], calls: DynamicBatching | None = None) -> list[Outcome]:
    """One optimizer step of each job, each with its own step number, counted from 1, over one base.

    `calls` are the pack's own, and remember what fits. Raises torch.OutOfMemoryError if even one job alone does not.
    """
    calls = calls or DynamicBatching()
    counts = [training.spec.recipe.gradient_accumulation for training, _ in jobs]
    outcomes: list[Outcome] = [0.0] * len(jobs)
    for training, step in jobs:
        training.begin(step)
    for micro in range(max(counts, default=0)):
        asked: dict[int, Asked] = {}
        for i, (training, step) in enumerate(jobs):
            if micro < counts[i] and training.team.asks(micro) and not isinstance(outcomes[i], LorafleetError):
                try:
                    asked[i] = Asked(training, training.question((step - 1) * counts[i] + micro))
                except LorafleetError as problem:
                    outcomes[i] = problem
        for group in _of_one_shape(asked):
            for i, loss in zip(group, _ask([asked[i] for i in group], calls), strict=True):
                outcomes[i] += loss / counts[i]  # type: ignore[operator]  # those that were asked have no error
    return [_moved(training, step, outcome) for (training, step), outcome in zip(jobs, outcomes, strict=True)]


def _moved(training: Training, step: int, outcome: Outcome) -> Outcome:
    if isinstance(outcome, LorafleetError):
        training.give_up()
        return outcome
    try:
        return training.finish(step, outcome)
    except NonFiniteError as problem:
        return problem


def _of_one_shape(asked: dict[int, Asked]) -> list[list[int]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, each in asked.items():
        groups.setdefault(each.shape, []).append(i)
    return list(groups.values())


def _ask(asked: Sequence[Asked], calls: DynamicBatching) -> list[float]:
    """Losses of micro-batches of one shape; their gradients are added to the jobs' own.

    What does not fit in memory together is asked again in smaller parts: no gradient has been added before all of a
    call are there.
    """
    losses: list[float] = []
    for part in calls.split(asked[0].shape, asked):
        seated = calls.seated(asked[0].shape, part)
        answered = _forward_backward_if_it_fits(part, seated, calls)
        if answered is None:
            calls.overflowed(asked[0].shape, len(seated))
            losses += _ask(part, calls)
            continue
        calls.fitted(asked[0].shape, len(part))
        for each, own in zip(part, answered.gradients, strict=True):
            each.training.add_gradients(own, 1 / each.training.spec.recipe.gradient_accumulation)
        losses += answered.losses
    return losses


@dataclass(frozen=True)
class Answered:
    """Of each micro-batch of a call its loss, and its gradients in the order of its training's `trained()`."""

    losses: list[float]
    gradients: list[tuple[Tensor | None, ...]]


def _forward_backward_if_it_fits(
    asked: Sequence[Asked], seated: Sequence[Asked], calls: DynamicBatching
) -> Answered | None:
    """None if these micro-batches do not fit in memory together; raises torch.OutOfMemoryError if one alone does not.

    When it returns, nothing of a call that failed is held any more: its exception, whose traceback keeps every frame
    and so every activation alive, is gone, and what the allocator kept for it has been given back.
    """
    try:
        return _forward_backward(asked, seated, calls)
    except torch.OutOfMemoryError:
        if len(seated) == 1:
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _forward_backward(asked: Sequence[Asked], seated: Sequence[Asked], calls: DynamicBatching) -> Answered:
    """One call of the base for all these micro-batches, every group of rows with its job's adapter, and its gradients.

    `seated` are those who take part in the call, `asked` first; what it says to the others is not read.
    The base carries the adapters until the backward pass is done, for checkpointing calls layers again in it.
    """
    base, recipe = seated[0].training.warm, seated[0].training.spec.recipe
    conditioning = calls.conditioning(
        [(each.training.prompts, each.question.captions, _dropout([each])) for each in seated]
    )
    lora, learned = base.lora[UNET], [each.training.learned for each in seated]
    layers = stacked(lora, [each.low_rank.get(UNET) for each in learned], [each.scale for each in learned])
    x = torch.cat([each.question.noisy.x for each in seated])
    t = torch.cat([each.question.noisy.t for each in seated])
    time_ids = torch.cat([each.question.time_ids for each in seated])
    adapters = {UNET: calls.layers(layers, lora)}
    with base.carrying((UNET,), adapters, _dropout(seated)), base.checkpointing(recipe.gradient_checkpointing):
        outputs = base.predict(x, t, Conditioning.cat(conditioning), time_ids, calls.unet).chunk(len(seated))
        losses = [each.question.loss(F) for each, F in zip(asked, outputs, strict=False)]
        owned = [each.training.trained() for each in asked]
        flat = torch.autograd.grad(torch.stack(losses).sum(), [p for own in owned for p in own], allow_unused=True)
    gradients: list[tuple[Tensor | None, ...]] = []
    for own in owned:
        start = sum(len(before) for before in gradients)
        gradients.append(flat[start : start + len(own)])
    return Answered([loss.item() for loss in losses], gradients)


def _dropout(asked: Sequence[Asked]) -> RowDropout | None:
    rates, seeds = zip(*(each.question.dropout for each in asked), strict=True)
    return RowDropout(rates, seeds) if any(rates) else None
