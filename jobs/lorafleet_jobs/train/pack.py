"""Jobs that step together over one base: each has its own rows in the batch, its own adapter on them, its own loss.

A job's result is what it would be alone, to floating-point tolerance: rows of a batch do not see each other, losses are
summed and never averaged over jobs, and every gradient is of one job's parameters only. Micro-batches of equal size
share calls of the base (`calls` says how); others take turns within the step, so that no mixture is refused. Knows
trainings and the base; refuses to know when a job starts, ends and reports (`run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafleet.errors import LorafleetError, NonFiniteError
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import UNET
from lorafleet_jobs.train.calls import SharedCalls
from lorafleet_jobs.train.learned import stacked
from lorafleet_jobs.train.training import Question, Training


@dataclass(frozen=True)
class Asked:
    """One job's micro-batch on its way through the base."""

    training: Training
    question: Question

    @property
    def shape(self) -> tuple[object, ...]:
        """What micro-batches of one call have in common."""
        return (*self.question.noisy.x.shape, self.training.spec.recipe.gradient_checkpointing)


Outcome = float | LorafleetError
"""A step's loss, the mean over its micro-batches, or why the job was not moved: bad data, or what is not finite."""


def step_alone(training: Training, step: int) -> float:
    """One optimizer step of one job, counted from 1; returns its loss. Raises DataError or NonFiniteError."""
    (outcome,) = step_together([(training, step)])
    if isinstance(outcome, LorafleetError):
        raise outcome
    return outcome


def step_together(jobs: Sequence[tuple[Training, int]], calls: SharedCalls | None = None) -> list[Outcome]:
    """One optimizer step of each job, each with its own step number, counted from 1, over one base.

    `calls` are the pack's own, and remember what fits. Raises torch.OutOfMemoryError if even one job alone does not.
    """
    calls = calls or SharedCalls()
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


def _ask(asked: Sequence[Asked], calls: SharedCalls) -> list[float]:
    """Losses of micro-batches of one shape; their gradients are added to the jobs' own.

    What does not fit in memory together is asked again in smaller parts: no gradient has been added before all of a
    call are there.
    """
    losses: list[float] = []
    for part in calls.split(asked[0].shape, asked):
        try:
            found, gradients = _backward(part, calls)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
            calls.overflowed(asked[0].shape, len(part))
            losses += _ask(part, calls)
            continue
        for each, own in zip(part, gradients, strict=True):
            each.training.add_gradients(own, 1 / each.training.spec.recipe.gradient_accumulation)
        losses += found
    return losses


def _backward(asked: Sequence[Asked], calls: SharedCalls) -> tuple[list[float], list[tuple[Tensor | None, ...]]]:
    answers = _answers(calls.seated(asked[0].shape, asked), calls)
    losses = [each.question.loss(F) for each, F in zip(asked, answers, strict=False)]  # parked seats' are not read
    owned = [each.training.trained() for each in asked]
    flat = torch.autograd.grad(torch.stack(losses).sum(), [p for own in owned for p in own], allow_unused=True)
    gradients: list[tuple[Tensor | None, ...]] = []
    for own in owned:
        start = sum(len(before) for before in gradients)
        gradients.append(flat[start : start + len(own)])
    return [loss.item() for loss in losses], gradients


def _answers(asked: Sequence[Asked], calls: SharedCalls) -> tuple[Tensor, ...]:
    """What the base says to each micro-batch, every group of rows with its job's adapter, in one call."""
    warm, checkpointing = asked[0].training.warm, asked[0].training.spec.recipe.gradient_checkpointing
    # One block tells for all; switching, and asking the UNet itself, walk every module.
    if warm.unet.down_blocks[0].gradient_checkpointing != checkpointing:
        (warm.unet.enable_gradient_checkpointing if checkpointing else warm.unet.disable_gradient_checkpointing)()
    conditioning = calls.conditioning(
        [(each.training.prompts, each.question.captions, _dropout([each])) for each in asked]
    )
    lora, learned = warm.lora[UNET], [each.training.learned for each in asked]
    layers = stacked(lora, [each.low_rank.get(UNET) for each in learned], [each.scale for each in learned])
    lora.set(calls.layers(layers, lora), _dropout(asked))
    x = torch.cat([each.question.noisy.x for each in asked])
    t = torch.cat([each.question.noisy.t for each in asked])
    time_ids = torch.cat([each.question.time_ids for each in asked])
    joined = Conditioning(torch.cat([c.context for c in conditioning]), torch.cat([c.pooled for c in conditioning]))
    answers: tuple[Tensor, ...] = warm.predict(x, t, joined, time_ids, calls.unet).chunk(len(asked))
    return answers


def _dropout(asked: Sequence[Asked]) -> RowDropout | None:
    rates, seeds = zip(*(each.question.dropout for each in asked), strict=True)
    return RowDropout(rates, seeds) if any(rates) else None
