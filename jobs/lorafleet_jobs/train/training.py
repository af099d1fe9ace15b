"""One job being trained: its micro-batches, its parameters, and how gradients update them.

Knows its own parameters, optimizer, schedule and random numbers; refuses to know which other jobs are on the base
(`pack`). DreamBooth: Ruiz et al. 2022. LoRA: Hu et al. 2021. Pivotal tuning: Roich et al. 2021, as cog-sdxl applies it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lorafleet.bundle.adapter import Adapter
from lorafleet.errors import DataError, NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.build_objective import build_objective
from lorafleet.numerics.factors import Factors
from lorafleet.numerics.generators import generator_for
from lorafleet.numerics.objectives import Noisy, Objective
from lorafleet.util.to_device import to_device
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.data import Dataset
from lorafleet_jobs.train.data.pieces import InPieces, Pieces, awaited
from lorafleet_jobs.train.data_parallel import Ranks, SingleRank
from lorafleet_jobs.train.ema import Average
from lorafleet_jobs.train.optimizers import optimizer_for, phase_ends, schedule_for
from lorafleet_jobs.train.prompts import JobPrompts, triggers_of
from lorafleet_jobs.train.trainable_state import ParameterKind, TrainableState, new_factors


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one forward and backward pass of one job: n rows of one size, their noise drawn."""

    noisy: Noisy
    captions: list[str]
    chunks: int
    """Of the longest caption, as the text encoders take them."""
    time_ids: Tensor
    """[n, 6]."""
    F_target: Tensor
    """F* [n, c, h, w], what the base should predict; of `predicted` rows only once the base was asked."""
    predicted: int
    """How many rows, the last ones, are to be as the base itself predicts them: those of prior mode `predict`."""
    w: Tensor
    """[n], the weight of each row's squared error."""
    mask: Tensor | None
    """[n, 1, h, w], the weight of each latent pixel."""
    dropout: tuple[float, int]
    """Its rate and its seed."""


@dataclass
class Training:
    """Everything of a job that is its own, over a base that is shared."""

    spec: JobSpec
    base: LoadedBase
    objective: Objective
    dataset: Dataset
    trainable: TrainableState
    prompts: JobPrompts
    optimizer: Optimizer
    schedule: LRScheduler
    ema: Average | None
    """The moving average of the parameters, if the recipe asks for one."""
    ends: dict[ParameterKind, int]
    """The last step, counted from 1, at which each kind of parameter is trained."""
    process_group: Ranks
    _ahead: tuple[int, MicroBatch] | None = None
    """The micro-batch that was drawn ahead, and its index."""

    @classmethod
    def prepare(
        cls, spec: JobSpec, base: LoadedBase, cache: Path | None = None, process_group: Ranks | None = None
    ) -> Training:
        """Reads the images and draws the first parameters. Raises DataError."""
        return InPieces(partial(cls.preparing, spec, base, cache, process_group)).finish()

    @classmethod
    def preparing(
        cls, spec: JobSpec, base: LoadedBase, cache: Path | None, process_group: Ranks | None, thread: Executor
    ) -> Pieces[Training]:
        """The same in pieces."""
        recipe, draws = spec.recipe, generator_for(spec.recipe.seed, "init")
        factors = yield from awaited(thread.submit(new_factors, recipe, base, draws))
        trainable = TrainableState.with_factors(factors, recipe, base, draws)
        objective = build_objective(base.base, recipe)
        dataset = yield from Dataset.opening(spec, base, cache, thread)
        optimizer = optimizer_for(recipe, trainable)
        return cls(
            spec=spec,
            base=base,
            objective=objective,
            dataset=dataset,
            trainable=trainable,
            prompts=JobPrompts(spec, base, trainable),
            optimizer=optimizer,
            schedule=schedule_for(recipe, optimizer, spec.steps),
            ema=Average(recipe.ema) if recipe.ema is not None else None,
            ends=phase_ends(recipe, spec.steps),
            process_group=process_group or SingleRank(),
        )

    def begin(self, step: int) -> None:
        """Prepares a step, counted from 1: freezes what is no longer trained, and drops the last gradients."""
        for kind, end in self.ends.items():
            if step > end:
                self.trainable.freeze(kind)
        self.optimizer.zero_grad(set_to_none=True)

    def micro_batch(self, index: int) -> MicroBatch:
        """The micro-batch of this index, counted from 0 over the whole job: batch, noise, target F* and weight w.

        All its random numbers are functions of the job's seed and the index. Raises DataError.
        """
        ahead, self._ahead = self._ahead, None
        return ahead[1] if ahead is not None and ahead[0] == index else self._drawn(index)

    def draw_ahead(self, index: int) -> None:
        """Draws a micro-batch before it is asked for, while the device is busy with others.

        One that cannot be drawn raises when it is asked for.
        """
        with suppress(DataError):
            self._ahead = (index, self._drawn(index))

    def _drawn(self, index: int) -> MicroBatch:
        """Everything is worked out in host memory, and sent to the device without waiting for it."""
        batch = self.dataset.batch(index)
        n, n_input = self._noise(batch.z, index)
        sigma = self.objective.draw(len(batch.z), self._generator("levels", index))
        drawn = self.objective.noisy(batch.z, n_input, sigma)
        send = partial(to_device, device=self.base.device)
        return MicroBatch(
            noisy=replace(drawn, x=send(drawn.x), t=send(drawn.t)),
            captions=batch.captions,
            chunks=self.prompts.chunks(batch.captions),
            time_ids=send(batch.time_ids),
            F_target=send(self.objective.target(batch.z, n, sigma)),
            predicted=batch.predicted,
            w=send(batch.weights * self.objective.weight(sigma)),
            mask=None if batch.mask is None else send(batch.mask),
            dropout=(self.spec.recipe.dropout, self._generator("dropout", index).initial_seed()),
        )

    def trained(self) -> list[nn.Parameter]:
        """The parameters that are still trained, in the order in which `add_gradients` takes their gradients."""
        return [parameter for parameter in self.trainable.parameters() if parameter.requires_grad]

    def add_gradients(self, gradients: Sequence[Tensor | None], share: float) -> None:
        """Adds a micro-batch's gradients of `trained()`, each weighing `share` of the step."""
        for parameter, gradient in zip(self.trained(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient * share if parameter.grad is None else parameter.grad + gradient * share

    def close(self, loss: Tensor) -> Tensor:
        """All-reduces and clips the step's gradients; returns the loss and their norm, [2] on the device.

        `loss` is this rank's, a scalar in float64.
        """
        parameters = self.trainable.parameters()
        loss = self.process_group.all_reduce(parameters, loss)
        max_norm = self.spec.recipe.max_grad_norm
        norm = nn.utils.clip_grad_norm_(parameters, max_norm if max_norm is not None else math.inf)
        return torch.stack([loss, norm.to(loss)])

    def update(self, step: int, loss: float, norm: float) -> None:
        """Ends a step with what `close` returned: optimizer, schedule, moving average.

        Raises NonFiniteError, having updated nothing.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(
                f"job {self.spec.id} ({self.spec.subject}): loss {loss} at step {step} is not finite; "
                "lower learning_rate, or set max_grad_norm"
            )
        self.optimizer.step()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.trainable)

    def abort(self) -> None:
        """Ends the job on its other ranks, which wait for this one."""
        self.process_group.abort(self.trainable.parameters())

    def ema_swapped_in(self) -> AbstractContextManager[None]:
        """While it lasts, the parameters are their moving average, if the job has one; the bundle is written so."""
        return nullcontext() if self.ema is None else self.ema.swapped_in(self.trainable)

    def adapter(self) -> Adapter:
        """A copy of the adapter as it is now, in the form in which it is served."""
        parts = {
            part: self.base.lora[part].with_norms(
                {name: Factors(f.A, f.B * self.trainable.scale, f.m).copied() for name, f in low.factors().items()}
            )
            for part, low in self.trainable.low_rank.items()
        }
        vectors = self.trainable.vectors
        copies = None if vectors is None else (vectors[0].detach().clone(), vectors[1].detach().clone())
        return Adapter(self.spec.adapter, parts, copies, triggers_of(self.spec), vectors_sha256="")

    def _noise(self, z: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The noise n of the target and the noise that the input is made with, both like `z` [n, c, h, w].

        With `noise_offset` both have a part that is constant over each channel; with `input_perturbation` the input's
        has some more (Ning et al. 2023, eq. 9).
        """
        recipe = self.spec.recipe
        n = torch.randn(z.shape, generator=self._generator("noise", index))
        if recipe.noise_offset:
            n = n + recipe.noise_offset * torch.randn(*z.shape[:2], 1, 1, generator=self._generator("offset", index))
        n_input = n
        if recipe.input_perturbation:
            perturbation = torch.randn(z.shape, generator=self._generator("perturbation", index))
            n_input = n + recipe.input_perturbation * perturbation
        return n, n_input

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        return generator_for(self.spec.recipe.seed, purpose, index)
