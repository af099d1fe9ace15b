"""One job's part in a training step: the micro-batches that it draws, and what they come to.

Knows one training and a step of it; refuses to know the other jobs of the step and the base's calls (`pack`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lorafleet.errors import LorafleetError, NonFiniteError
from lorafleet.targets import UNET
from lorafleet_jobs.train.batching import Shape
from lorafleet_jobs.train.trainable_state import LowRank
from lorafleet_jobs.train.training import MicroBatch, Training

Outcome = float | LorafleetError
"""A job's loss of one step, the mean over its micro-batches; or the error because of which nothing was updated."""


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

    @property
    def prior_shape(self) -> tuple[object, ...]:
        """What the base's own predictions for prior rows have in common that are asked in one call."""
        drawn = self.micro_batch
        return "prior", drawn.predicted, *drawn.noisy.x.shape[1:], self.training.prompts.chunks(self.prior_captions)

    @property
    def prior_captions(self) -> list[str]:
        """Of the rows whose target is the base's own prediction."""
        drawn = self.micro_batch
        return drawn.captions[len(drawn.captions) - drawn.predicted :]

    def aim(self, F: Tensor) -> None:
        """Makes the base's own prediction the target of the prior rows."""
        target = self.micro_batch.F_target
        self.micro_batch = replace(self.micro_batch, F_target=torch.cat([target[: -len(F)], F.to(target)]))

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


def by_shape(jobs: Sequence[JobStep], shape: Callable[[JobStep], Shape]) -> list[tuple[Shape, list[JobStep]]]:
    """The jobs by the shape that they have for one kind of call, in the order in which they come."""
    groups: dict[Shape, list[JobStep]] = {}
    for job in jobs:
        groups.setdefault(shape(job), []).append(job)
    return list(groups.items())
