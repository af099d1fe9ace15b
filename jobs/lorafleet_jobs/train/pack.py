"""Jobs that step together over one base: each has its own rows in the batch, its own adapter on them, its own loss.

A job's result is what it would be alone, to floating-point tolerance: rows of a batch do not see each other, losses are
summed and never averaged over jobs, and every gradient is of one job's parameters only. Micro-batches of equal size
share a call of the base; others take turns within the step, so that no mixture is refused. Knows trainings and the
base; refuses to know when a job starts, ends and reports (`run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafleet.errors import LorafleetError, NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import UNET
from lorafleet_jobs.train.learned import stacked
from lorafleet_jobs.train.prompts import conditioning_of
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


def step_together(jobs: Sequence[tuple[Training, int]]) -> list[Outcome]:
    """One optimizer step of each job, each with its own step number, counted from 1, over one base.

    Raises torch.OutOfMemoryError if even one job alone does not fit.
    """
    counts = [training.spec.recipe.gradient_accumulation for training, _ in jobs]
    outcomes: list[Outcome] = [0.0] * len(jobs)
    for training, step in jobs:
        training.begin(step)
    for micro in range(max(counts, default=0)):
        asked: dict[int, Asked] = {}
        for i, (training, step) in enumerate(jobs):
            if micro < counts[i] and not isinstance(outcomes[i], LorafleetError):
                try:
                    asked[i] = Asked(training, training.question((step - 1) * counts[i] + micro))
                except LorafleetError as problem:
                    outcomes[i] = problem
        for group in _of_one_shape(asked):
            for i, loss in zip(group, _ask([asked[i] for i in group]), strict=True):
                outcomes[i] += loss / counts[i]  # type: ignore[operator]  # those that were asked have no error
    return [_moved(training, step, outcome) for (training, step), outcome in zip(jobs, outcomes, strict=True)]


def _moved(training: Training, step: int, outcome: Outcome) -> Outcome:
    if isinstance(outcome, LorafleetError):
        return outcome
    try:
        training.finish(step, outcome)
    except NonFiniteError as problem:
        return problem
    return outcome


def _of_one_shape(asked: dict[int, Asked]) -> list[list[int]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, each in asked.items():
        groups.setdefault(each.shape, []).append(i)
    return list(groups.values())


def _ask(asked: Sequence[Asked]) -> list[float]:
    """Losses of micro-batches of one shape; their gradients are added to the jobs' own.

    What does not fit in memory together is asked in halves: no gradient has been added before all are there.
    """
    try:
        losses, gradients = _backward(asked)
    except torch.OutOfMemoryError:
        if len(asked) == 1:
            raise
        half = len(asked) // 2
        return _ask(asked[:half]) + _ask(asked[half:])
    for each, own in zip(asked, gradients, strict=True):
        each.training.add_gradients(own, 1 / each.training.spec.recipe.gradient_accumulation)
    return losses


def _backward(asked: Sequence[Asked]) -> tuple[list[float], list[tuple[Tensor | None, ...]]]:
    trainings = [each.training for each in asked]
    warm, checkpointing = trainings[0].warm, trainings[0].spec.recipe.gradient_checkpointing
    (warm.unet.enable_gradient_checkpointing if checkpointing else warm.unet.disable_gradient_checkpointing)()
    conditioning = conditioning_of(
        [(each.training.prompts, each.question.captions, _dropout([each])) for each in asked]
    )
    _carry(warm, asked)
    answers = _predict(warm, asked, conditioning)
    losses = [each.question.loss(F) for each, F in zip(asked, answers, strict=True)]
    owned = [training.trained() for training in trainings]
    flat = torch.autograd.grad(torch.stack(losses).sum(), [p for own in owned for p in own], allow_unused=True)
    gradients: list[tuple[Tensor | None, ...]] = []
    for own in owned:
        start = sum(len(before) for before in gradients)
        gradients.append(flat[start : start + len(own)])
    return [loss.item() for loss in losses], gradients


def _carry(warm: LoadedBase, asked: Sequence[Asked]) -> None:
    """Every group of rows with its job's adapter on the UNet."""
    learned = [each.training.learned for each in asked]
    jobs, scales = [each.low_rank.get(UNET) for each in learned], [each.scale for each in learned]
    warm.lora[UNET].set(stacked(warm.lora[UNET], jobs, scales), _dropout(asked))


def _dropout(asked: Sequence[Asked]) -> RowDropout | None:
    rates, seeds = zip(*(each.question.dropout for each in asked), strict=True)
    return RowDropout(rates, seeds) if any(rates) else None


def _predict(warm: LoadedBase, asked: Sequence[Asked], conditioning: Sequence[Conditioning]) -> tuple[Tensor, ...]:
    x = torch.cat([each.question.noisy.x for each in asked])
    t = torch.cat([each.question.noisy.t for each in asked])
    time_ids = torch.cat([each.question.time_ids for each in asked])
    joined = Conditioning(torch.cat([c.context for c in conditioning]), torch.cat([c.pooled for c in conditioning]))
    answers: tuple[Tensor, ...] = warm.predict(x, t, joined, time_ids).chunk(len(asked))
    return answers
