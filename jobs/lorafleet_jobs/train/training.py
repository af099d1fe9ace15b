"""One job being trained: what it is shown, what the base should say to it, and what it learns from what the base said.

Knows its own parameters, optimizer, schedule and draws; refuses to know who else is on the base (`pack`). DreamBooth:
Ruiz et al. 2022. LoRA: Hu et al. 2021. Pivotal tuning: Roich et al. 2021, as cog-sdxl applies it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lorafleet.bundle.adapter import Adapter
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.build_objective import build_objective
from lorafleet.numerics.factors import Factors
from lorafleet.numerics.objectives import Noisy, Objective
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.data import Batch, Dataset
from lorafleet_jobs.train.data_parallel import SingleRank
from lorafleet_jobs.train.ema import Average
from lorafleet_jobs.train.generators import stream
from lorafleet_jobs.train.learned import Kind, TrainableState
from lorafleet_jobs.train.optimizers import optimizer_for, phase_end, schedule_for
from lorafleet_jobs.train.prompts import JobPrompts, triggers_of


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch as the base is asked about it: n rows of one size."""

    noisy: Noisy
    captions: list[str]
    chunks: int
    """Of the longest caption, as the text encoders take them."""
    time_ids: Tensor
    """[n, 6]."""
    target: Tensor
    """F* [n, c, h, w]."""
    weights: Tensor
    """[n] of each row's squared error."""
    mask: Tensor | None
    dropout: tuple[float, int]
    """Its rate and its seed."""

    def loss(self, F: Tensor) -> Tensor:
        """What the base's answer F [n, c, h, w] costs: a scalar."""
        error = (F - self.target).square().mean(dim=1, keepdim=True)
        if self.mask is None:
            rows = error.mean(dim=(1, 2, 3))
        else:  # a mean over what the mask shows, so that a small subject learns as fast as a large one
            rows = (error * self.mask).sum(dim=(1, 2, 3)) / self.mask.sum(dim=(1, 2, 3))
        return (self.weights * rows).sum()


@dataclass
class Training:
    """Everything of a job that is its own, over a base that is shared."""

    spec: JobSpec
    warm: LoadedBase
    objective: Objective
    dataset: Dataset
    learned: TrainableState
    prompts: JobPrompts
    team: SingleRank = field(default_factory=SingleRank)

    @classmethod
    def prepare(
        cls, spec: JobSpec, warm: LoadedBase, cache: Path | None = None, team: SingleRank | None = None
    ) -> Training:
        """Reads the images and draws the first weights. Raises DataError."""
        learned = TrainableState.new(spec.recipe, warm, stream(spec.recipe.seed, "init"))
        objective, dataset = build_objective(warm.base, spec.recipe), Dataset.open(spec, warm, cache)
        return cls(spec, warm, objective, dataset, learned, JobPrompts(spec, warm, learned), team or SingleRank())

    def __post_init__(self) -> None:
        recipe, steps = self.spec.recipe, self.spec.steps
        self.optimizer = optimizer_for(recipe, self.learned)
        self.schedule = schedule_for(recipe, self.optimizer, steps)
        self.average = Average(recipe.ema) if recipe.ema is not None else None
        self.ends: dict[Kind, int] = {
            "unet": phase_end(recipe.unet_fraction, steps),
            "text": phase_end(recipe.text_encoder_lora.fraction, steps) if recipe.text_encoder_lora else 0,
            "tokens": phase_end(recipe.pivotal.fraction, steps) if recipe.pivotal else 0,
        }

    def begin(self, step: int) -> None:
        """Before a step, counted from 1: freezes what is no longer trained, and forgets the last gradients."""
        for kind, end in self.ends.items():
            if step > end:
                self.learned.freeze(kind)
        self.optimizer.zero_grad(set_to_none=True)

    def question(self, index: int) -> MicroBatch:
        """The index-th micro-batch, all its draws a function of the job's seed and the index."""
        batch = self.dataset.batch(index)
        n, shown = self._noise(batch.z, index)
        sigma = self.objective.draw(len(batch.z), self._stream("levels", index)).to(batch.z.device)
        noisy = self.objective.noisy(batch.z, shown, sigma)
        target = self.objective.target(batch.z, n, sigma)
        if batch.predicted.any():
            target = target.clone()
            target[batch.predicted] = self._base_output(batch, noisy).to(target)
        weights = batch.weights * self.objective.weight(sigma)
        dropout = (self.spec.recipe.dropout, self._stream("dropout", index).initial_seed())
        chunks = self.prompts.chunks(batch.captions)
        return MicroBatch(noisy, batch.captions, chunks, batch.time_ids, target, weights, batch.mask, dropout)

    def trained(self) -> list[nn.Parameter]:
        """What the next gradients are of."""
        return [parameter for parameter in self.learned.parameters() if parameter.requires_grad]

    def add_gradients(self, gradients: Sequence[Tensor | None], share: float) -> None:
        """Adds a micro-batch's gradients of `trained()`, each weighing `share` of the step."""
        for parameter, gradient in zip(self.trained(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient * share if parameter.grad is None else parameter.grad + gradient * share

    def finish(self, step: int, loss: float) -> float:
        """After a step: adds up what all workers found, clips, and moves what is learned; returns the step's loss.

        Raises NonFiniteError and moves nothing.
        """
        loss = self.team.add_up(self.learned.parameters(), loss)
        limit = self.spec.recipe.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self.learned.parameters(), limit if limit is not None else math.inf)
        if not math.isfinite(loss) or not torch.isfinite(norm):
            raise NonFiniteError(
                f"job {self.spec.id} ({self.spec.subject}): loss {loss} at step {step} is not finite; "
                "lower learning_rate, or set max_grad_norm"
            )
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update(self.learned)
        return loss

    def give_up(self) -> None:
        """Ends the job's other workers, which wait for this one."""
        self.team.give_up(self.learned.parameters())

    def published(self) -> AbstractContextManager[None]:
        """While it lasts, the learned parameters are those that will be published: their average, if one is kept."""
        return nullcontext() if self.average is None else self.average.swapped_in(self.learned)

    def adapter(self) -> Adapter:
        """What has been learned so far, as it would be served; a copy."""
        parts = {
            part: self.warm.lora[part].with_norms(
                {name: Factors(f.A, f.B * self.learned.scale, f.m).copied() for name, f in low.factors().items()}
            )
            for part, low in self.learned.low_rank.items()
        }
        vectors = self.learned.vectors
        copies = None if vectors is None else (vectors[0].detach().clone(), vectors[1].detach().clone())
        return Adapter(self.spec.adapter, parts, copies, triggers_of(self.spec), vectors_sha256="")

    def _noise(self, z: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The noise n of the target and the noise that the input is made with, both like `z` [n, c, h, w].

        With `noise_offset` both have a part that is constant over each channel; with `input_perturbation` the input's
        has some more (Ning et al. 2023, eq. 9).
        """
        recipe = self.spec.recipe
        n = torch.randn(z.shape, generator=self._stream("noise", index))
        if recipe.noise_offset:
            n = n + recipe.noise_offset * torch.randn(*z.shape[:2], 1, 1, generator=self._stream("offset", index))
        shown = n
        if recipe.input_perturbation:
            more = torch.randn(z.shape, generator=self._stream("perturbation", index))
            shown = n + recipe.input_perturbation * more
        return n.to(z.device), shown.to(z.device)

    @torch.no_grad()
    def _base_output(self, batch: Batch, noisy: Noisy) -> Tensor:
        """What the base itself says of the rows of prior mode `predict`, without the adapter: their target."""
        rows = batch.predicted
        captions = [caption for caption, row in zip(batch.captions, rows.tolist(), strict=True) if row]
        return self.warm.predict(
            noisy.x[rows], noisy.t[rows], self.prompts.encode(captions, weight=0), batch.time_ids[rows]
        )

    def _stream(self, purpose: str, index: int) -> torch.Generator:
        return stream(self.spec.recipe.seed, purpose, index)
