"""The training loop: DreamBooth LoRA with pivotal tuning, one job from images to a bundle.

DreamBooth: Ruiz et al. 2022. LoRA: Hu et al. 2021. Pivotal tuning: Roich et al. 2021, as cog-sdxl applies it. Knows
neither Ray nor MLflow; whoever calls it passes a tracker and is told of each step.
"""

from __future__ import annotations

import hashlib
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lorafleet.bundle import Bundle
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.objectives import Objective, objective_for
from lorafleet.ports import JobTracker
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.artifact import publishable
from lorafleet_jobs.train.data import Sample, draw_latents, load_samples, sample_order
from lorafleet_jobs.train.learned import Learned
from lorafleet_jobs.train.optimize import adaptive_rate, optimizer_for, pivot_step, schedule_for
from lorafleet_jobs.train.prompts import JobPrompts
from lorafleet_jobs.train.validate import Validator


class Cancelled(Exception):  # noqa: N818  a wish, not an error
    """Raised by `on_step` to stop a training between two steps."""


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one job, so that no draw depends on another's count."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))


def train_job(
    spec: JobSpec,
    warm: LoadedBase,
    out: Path,
    tracker: JobTracker,
    on_step: Callable[[int, float], None],
    run_id: str | None = None,
) -> Bundle:
    """Trains one adapter on a warm base and writes its bundle to `out`.

    `on_step(step, loss)` follows every step, counted from 1. Raises DataError, NonFiniteError, or what `on_step`
    raises. The base is as before afterwards, whatever happens.
    """
    try:
        job = _Job.prepare(spec, warm)
        validator = Validator(spec, warm, job.prompts, job.learned)
        report = _Report(tracker, spec, on_step)
        validator.log_base(tracker)
        for step in range(1, spec.steps + 1):
            loss = job.step(step)
            report.after(step, loss, job)
            if validator.is_due(step):
                validator.log(tracker, step)
        return publishable(spec, warm, job.learned, validator, report.summary(), run_id, out)
    finally:
        warm.row_lora.set(None)
        warm.unet.disable_gradient_checkpointing()


@dataclass
class _Job:
    spec: JobSpec
    warm: LoadedBase
    objective: Objective
    samples: list[Sample]
    learned: Learned
    prompts: JobPrompts

    @classmethod
    def prepare(cls, spec: JobSpec, warm: LoadedBase) -> _Job:
        resolution = spec.recipe.resolution or warm.base.resolution
        learned = Learned.new(spec.recipe, warm, stream(spec.recipe.seed, "init"))
        if spec.recipe.gradient_checkpointing:
            warm.unet.enable_gradient_checkpointing()
        return cls(
            spec,
            warm,
            objective_for(warm.base, spec.recipe),
            load_samples(spec, warm, resolution),
            learned,
            JobPrompts(spec, warm, learned),
        )

    def __post_init__(self) -> None:
        recipe = self.spec.recipe
        self.optimizer = optimizer_for(recipe, self.learned)
        self.schedule = schedule_for(recipe, self.optimizer, self.spec.steps)
        self.pivot = pivot_step(recipe, self.spec.steps)
        self.order = sample_order(len(self.samples), recipe.batch_size, stream(recipe.seed, "order"))
        self.latent_draws = stream(recipe.seed, "latents")
        self.noise_draws = stream(recipe.seed, "noise")
        self.level_draws = stream(recipe.seed, "levels")

    def step(self, step: int) -> float:
        """One optimizer step; returns the batch's loss."""
        if self.learned.vectors is not None and step > self.pivot:
            self.freeze_tokens()

        # ---- batch
        batch = [self.samples[i] for i in next(self.order)]
        z = draw_latents(batch, self.warm, self.latent_draws)
        n = torch.randn(z.shape, generator=self.noise_draws).to(z.device)
        noisy = self.objective.noisy(z, n, self.objective.draw(len(z), self.level_draws).to(z.device))

        # ---- predict and weigh
        conditioning = self.prompts.conditioning([sample.caption for sample in batch])
        self.learned.install(self.warm)
        output = self.warm.predict(noisy.x, noisy.t, conditioning, torch.cat([sample.time_ids for sample in batch]))
        loss = self.objective.loss(output, z, n, noisy).mean()

        # ---- backward and step
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = self.spec.recipe.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.learned.parameters(), limit if limit is not None else math.inf)
        if not torch.isfinite(norm) or not torch.isfinite(loss):
            raise NonFiniteError(
                f"job {self.spec.id} ({self.spec.subject}): loss {loss.item()} at step {step} is not finite; "
                "lower learning_rate, or set max_grad_norm"
            )
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    def freeze_tokens(self) -> None:
        """The pivot: from here on the tokens are constants, and their prompts are encoded once."""
        for vectors in self.learned.vectors or ():
            vectors.requires_grad_(False)
            vectors.grad = None


@dataclass
class _Report:
    """Side effects of a step: the caller's callback, and one batch of metrics every few steps."""

    tracker: JobTracker
    spec: JobSpec
    on_step: Callable[[int, float], None]
    started: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)

    def after(self, step: int, loss: float, job: _Job) -> None:
        self.losses.append(loss)
        self.on_step(step, loss)
        every = max(1, self.spec.steps // 50)
        if step % every and step != self.spec.steps:
            return
        recent = self.losses[-every:]
        values = {"train/loss": sum(recent) / len(recent), "train/lr": float(job.optimizer.param_groups[0]["lr"])}
        if (d := adaptive_rate(job.optimizer)) is not None:
            values["train/d"] = d
        self.tracker.metrics(step, values | self._performance(step))

    def _performance(self, step: int) -> dict[str, float]:
        peak = (
            torch.cuda.max_memory_allocated() / 2**20
            if torch.cuda.is_available()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )
        return {"perf/steps_per_second": step / (time.monotonic() - self.started), "perf/peak_memory_mib": peak}

    def summary(self) -> dict[str, float]:
        """What the card keeps."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return {"train/loss": sum(last) / len(last), "train/seconds": time.monotonic() - self.started}
