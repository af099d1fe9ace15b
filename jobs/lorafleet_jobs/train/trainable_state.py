"""What one job trains: low-rank factors of the UNet and the text encoders, and token vectors; fp32 master weights.

All factors of one model are views of one flat parameter. Optimizers work element by element, so this changes nothing
but the number of kernel launches: a step of Prodigy on 112 small matrices takes longer than the UNet they adapt.
Called `trainable` elsewhere, for optimizers, schedules and checkpoints have a `state` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from lorafleet.config import Recipe
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.factors import Factors, Stacked, stack
from lorafleet.numerics.rowlora import RowLoRA
from lorafleet.numerics.text import Vectors, new_vectors
from lorafleet.targets import PARTS, TEXT, TEXT_PARTS, UNET, select

ParameterKind = Literal["unet", "text", "tokens"]


@dataclass
class ParameterSet:
    """Parameters that share a learning rate and are frozen together."""

    kind: ParameterKind
    parameters: list[nn.Parameter]
    shapes: list[list[torch.Size]]
    """For each parameter, the matrices and vectors that lie in it one after another."""


@dataclass
class LowRank:
    """The factors of one model: layer by layer A [r, in], B [out, r] and for DoRA the magnitude [out]."""

    flat: nn.Parameter
    layers: Mapping[str, tuple[int, int]]
    """(in, out) by name."""
    rank: int
    dora: bool

    @classmethod
    def new(cls, lora: RowLoRA, layers: list[str], rank: int, dora: bool, draws: torch.Generator) -> LowRank:
        """A ~ N(0, 1/r) ("gaussian" in PEFT), B = 0, the magnitudes are the weights' own norms: nothing changes yet."""
        shapes = lora.linear
        parts: list[Tensor] = []
        for name in layers:
            n_in, n_out = shapes[name]
            parts += [torch.randn(rank * n_in, generator=draws) / rank, torch.zeros(n_out * rank)]
            if dora:
                parts.append(lora.layers[name].base.weight.detach().float().norm(dim=1).cpu())
        device = next(iter(lora.layers.values())).base.weight.device
        return cls(nn.Parameter(torch.cat(parts).to(device)), {name: shapes[name] for name in layers}, rank, dora)

    @cached_property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the tensors in `flat`, in their order."""
        shapes = []
        for n_in, n_out in self.layers.values():
            shapes += [torch.Size((self.rank, n_in)), torch.Size((n_out, self.rank))]
            shapes += [torch.Size((n_out,))] if self.dora else []
        return shapes

    def factors(self, flat: Tensor | None = None) -> dict[str, Factors]:
        """By layer name, as differentiable views of the flat parameter, or of a stack [groups, ...] of such."""
        flat, shapes = self.flat if flat is None else flat, self.shapes
        parts = flat.split([s.numel() for s in shapes], dim=-1)
        tensors = [t.view(*flat.shape[:-1], *s) for t, s in zip(parts, shapes, strict=True)]
        each = 3 if self.dora else 2
        return {name: Factors(*tensors[i * each : (i + 1) * each]) for i, name in enumerate(self.layers)}

    def like(self, other: LowRank) -> bool:
        """Whether both lay out the same tensors."""
        return (self.layers, self.rank, self.dora) == (other.layers, other.rank, other.dora)


@dataclass
class TrainableState:
    """All parameters of one job."""

    low_rank: dict[str, LowRank]
    """By `lorafleet.targets.PARTS`; empty for textual inversion alone."""
    scale: float
    vectors: tuple[nn.Parameter, nn.Parameter] | None
    """Token vectors of both encoders, [n, w1] and [n, w2]."""
    frozen: set[ParameterKind] = field(default_factory=set)

    @classmethod
    def new(cls, recipe: Recipe, loaded: LoadedBase, draws: torch.Generator) -> TrainableState:
        """Fresh state, drawn from the job's own generator."""
        low_rank: dict[str, LowRank] = {}
        if recipe.trains_unet:
            lora = loaded.lora[UNET]
            layers = select(lora.linear, recipe.targets)
            low_rank[UNET] = LowRank.new(lora, layers, recipe.rank, recipe.dora, draws)
        if recipe.text_encoder_lora is not None:
            rank = recipe.text_encoder_lora.rank or recipe.rank
            for part in TEXT_PARTS:
                lora = loaded.lora[part]
                low_rank[part] = LowRank.new(lora, select(lora.linear, TEXT), rank, recipe.dora, draws)
        return cls(low_rank, recipe.scale(), _new_tokens(recipe, loaded, draws))

    def adapters(
        self, base: LoadedBase, parts: Sequence[str] = PARTS, weight: float = 1.0
    ) -> dict[str, dict[str, Stacked]]:
        """The factors as they are now, by part of the base, for one group of rows; empty at weight 0."""
        if not weight:
            return {}
        return {
            part: stacked(base.lora[part], [self.low_rank[part]], [self.scale * weight])
            for part in parts
            if part in self.low_rank
        }

    def sets(self) -> list[ParameterSet]:
        """All parameters, in sets of one learning rate."""
        sets = []
        if UNET in self.low_rank:
            unet = self.low_rank[UNET]
            sets.append(ParameterSet("unet", [unet.flat], [unet.shapes]))
        text = [self.low_rank[part] for part in TEXT_PARTS if part in self.low_rank]
        if text:
            sets.append(ParameterSet("text", [low.flat for low in text], [low.shapes for low in text]))
        if self.vectors is not None:
            sets.append(ParameterSet("tokens", list(self.vectors), [[v.shape] for v in self.vectors]))
        return sets

    def parameters(self) -> list[nn.Parameter]:
        """All parameters, those that are frozen by now included."""
        return [parameter for each in self.sets() for parameter in each.parameters]

    def freeze(self, kind: ParameterKind) -> None:
        """Makes parameters constants: without a gradient no optimizer touches them, weight decay included."""
        if kind in self.frozen:
            return
        self.frozen.add(kind)
        for each in self.sets():
            for parameter in each.parameters if each.kind == kind else ():
                parameter.requires_grad_(False)
                parameter.grad = None

    @property
    def prompts_change(self) -> bool:
        """Whether a prompt's encoding depends on something that is still trained."""
        return any(each.kind != "unet" and each.kind not in self.frozen for each in self.sets())


def stacked(lora: RowLoRA, jobs: Sequence[LowRank | None], scales: Sequence[float]) -> dict[str, Stacked]:
    """One model's layers with each job's factors on its own group of rows; None leaves a group as the base has it.

    Jobs that lay out the same tensors are stacked in one operation, and everything after it is done for all at once.
    """
    first = jobs[0]
    if first is None or not all(job is not None and first.like(job) for job in jobs):
        groups = [[(lora.with_norms(job.factors()), s)] if job else [] for job, s in zip(jobs, scales, strict=True)]
        return stack(groups)
    flat = torch.stack([job.flat for job in jobs if job is not None])
    scale = scales[0] if len(set(scales)) == 1 else torch.tensor(scales, dtype=flat.dtype, device=flat.device)[:, None]
    parts = {name: f.parts(scale) for name, f in lora.with_norms(first.factors(flat)).items()}
    return {name: Stacked(A, B, gain) for name, (A, B, gain) in parts.items()}


def _new_tokens(recipe: Recipe, loaded: LoadedBase, draws: torch.Generator) -> tuple[nn.Parameter, nn.Parameter] | None:
    if recipe.pivotal is None:
        return None
    each: list[Vectors] = [
        new_vectors(loaded.prompts, recipe.pivotal.tokens, draws, recipe.pivotal.init_of(word))
        for word in recipe.pivotal.abstractions
    ]
    first, second = (torch.cat([vectors[i].detach() for vectors in each]).float().to(loaded.device) for i in (0, 1))
    return nn.Parameter(first), nn.Parameter(second)
