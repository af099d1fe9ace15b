"""The training loop: DreamBooth LoRA with pivotal tuning, one job from images to a bundle.

DreamBooth: Ruiz et al. 2022. LoRA: Hu et al. 2021. Pivotal tuning: Roich et al. 2021, as cog-sdxl applies it. Knows
neither Ray nor MLflow; whoever calls it passes a tracker and is told of each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorafleet.adapters import Adapter
from lorafleet.bundle import Bundle
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.choose import objective_for
from lorafleet.numerics.factors import Factors
from lorafleet.numerics.objectives import Noisy, Objective
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.ports import JobTracker
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.artifact import publishable
from lorafleet_jobs.train.data import Batch, Dataset
from lorafleet_jobs.train.draws import stream
from lorafleet_jobs.train.ema import Average
from lorafleet_jobs.train.learned import Kind, Learned
from lorafleet_jobs.train.optimize import optimizer_for, phase_end, schedule_for
from lorafleet_jobs.train.progress import Progress
from lorafleet_jobs.train.prompts import JobPrompts, triggers_of
from lorafleet_jobs.train.validate import Validator


class Cancelled(Exception):  # noqa: N818  a wish, not an error
    """Raised by `on_step` to stop a training between two steps."""


def train_job(
    spec: JobSpec,
    warm: LoadedBase,
    out: Path,
    tracker: JobTracker,
    on_step: Callable[[int, float], None],
    run_id: str | None = None,
    cache: Path | None = None,
) -> Bundle:
    """Trains one adapter on a warm base and writes its bundle to `out`; `cache` keeps latents and class images.

    `on_step(step, loss)` follows every step, counted from 1. Raises DataError, NonFiniteError, or what `on_step`
    raises. The base is as before afterwards, whatever happens.
    """
    try:
        job = Training.prepare(spec, warm, cache)
        validator = Validator(spec, warm, job.prompts, job.learned)
        progress = Progress(tracker, spec, on_step)
        validator.log_base(tracker)
        for step in range(1, spec.steps + 1):
            loss = job.step(step)
            progress.after(step, loss, job.optimizer)
            if validator.is_due(step):
                with job.published():
                    validator.log(tracker, step)
        with job.published():
            return publishable(spec, warm, job.learned, validator, progress.summary(), run_id, out)
    finally:
        warm.clear()
        warm.unet.disable_gradient_checkpointing()


@dataclass
class Training:
    """One job being trained: everything that is its own, over a base that is shared."""

    spec: JobSpec
    warm: LoadedBase
    objective: Objective
    dataset: Dataset
    learned: Learned
    prompts: JobPrompts

    @classmethod
    def prepare(cls, spec: JobSpec, warm: LoadedBase, cache: Path | None = None) -> Training:
        """Reads the images and draws the first weights. Raises DataError."""
        warm.clear()
        learned = Learned.new(spec.recipe, warm, stream(spec.recipe.seed, "init"))
        if spec.recipe.gradient_checkpointing:
            warm.unet.enable_gradient_checkpointing()
        objective = objective_for(warm.base, spec.recipe)
        return cls(
            spec, warm, objective, Dataset.open(spec, warm, cache), learned, JobPrompts(spec, warm, learned)
        )  # fmt: skip

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

    def step(self, step: int) -> float:
        """One optimizer step, counted from 1; returns its loss, the mean over its micro-batches."""
        for kind, end in self.ends.items():
            if step > end:
                self.learned.freeze(kind)
        count = self.spec.recipe.gradient_accumulation
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for index in range((step - 1) * count, step * count):
            loss = self.loss(index) / count
            loss.backward()
            total += loss.item()

        limit = self.spec.recipe.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.learned.parameters(), limit if limit is not None else math.inf)
        if not math.isfinite(total) or not torch.isfinite(norm):
            raise NonFiniteError(
                f"job {self.spec.id} ({self.spec.subject}): loss {total} at step {step} is not finite; "
                "lower learning_rate, or set max_grad_norm"
            )
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update(self.learned)
        return total

    def loss(self, index: int) -> Tensor:
        """The loss of the index-th micro-batch, all its draws a function of the job's seed and the index."""
        # ---- batch
        batch = self.dataset.batch(index)
        n, shown = self.noise(batch.z, index)
        sigma = self.objective.draw(len(batch.z), self._stream("levels", index)).to(batch.z.device)
        noisy = self.objective.noisy(batch.z, shown, sigma)
        target = self.objective.target(batch.z, n, sigma)
        if batch.predicted.any():
            target = torch.where(batch.predicted[:, None, None, None], self.base_output(batch, noisy), target)

        # ---- predict
        p = self.spec.recipe.dropout
        self.learned.install(
            self.warm, dropout=RowDropout((p,), (self._stream("dropout", index).initial_seed(),)) if p else None
        )
        F = self.warm.predict(noisy.x, noisy.t, self.prompts.conditioning(batch.captions), batch.time_ids)

        # ---- weigh
        error = (F - target).square().mean(dim=1, keepdim=True)
        if batch.mask is None:
            error = error.mean(dim=(1, 2, 3))
        else:  # a mean over what the mask shows, so that a small subject learns as fast as a large one
            error = (error * batch.mask).sum(dim=(1, 2, 3)) / batch.mask.sum(dim=(1, 2, 3))
        loss: Tensor = (batch.weights * self.objective.weight(sigma) * error).sum()
        return loss

    def noise(self, z: Tensor, index: int) -> tuple[Tensor, Tensor]:
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
    def base_output(self, batch: Batch, noisy: Noisy) -> Tensor:
        """What the base itself says of this batch, adapter off: the target of prior mode `predict`."""
        self.warm.clear()
        return self.warm.predict(noisy.x, noisy.t, self.prompts.encode(batch.captions), batch.time_ids)

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

    def _stream(self, purpose: str, index: int) -> torch.Generator:
        return stream(self.spec.recipe.seed, purpose, index)
