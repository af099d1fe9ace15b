"""What one job trains: low-rank factors of the UNet and the text encoders, and token vectors; fp32 master weights.

All factors of one model are views of one flat parameter. Optimizers work element by element, so this changes nothing
but the number of kernel launches: a step of Prodigy on 112 small matrices takes longer than the UNet they adapt.
Called `trainable` elsewhere, for optimizers, schedules and checkpoints have a `state` too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from lorafleet.config import Recipe
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.factors import Factors, Stacked
from lorafleet.numerics.flat_factors import Layout
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
    """The factors of one model in one flat parameter."""

    flat: nn.Parameter
    layout: Layout

    @classmethod
    def new(cls, lora: RowLoRA, layers: list[str], rank: int, dora: bool, draws: torch.Generator) -> LowRank:
        """A ~ N(0, 1/r) ("gaussian" in PEFT), B = 0, the magnitudes are the weights' own norms: nothing changes yet."""
        layout = Layout(tuple((name, *lora.linear[name]) for name in layers), rank, dora)
        parts: list[Tensor] = []
        for name, n_in, n_out in layout.layers:
            parts += [torch.randn(rank * n_in, generator=draws) / rank, torch.zeros(n_out * rank)]
            if dora:
                parts.append(lora.layers[name].base.weight.detach().float().norm(dim=1).cpu())
        device = next(iter(lora.layers.values())).base.weight.device
        return cls(nn.Parameter(torch.cat(parts).to(device)), layout)

    def factors(self) -> dict[str, Factors]:
        """By layer name, as differentiable views of the flat parameter."""
        return self.layout.factors(self.flat)


@dataclass(frozen=True)
class PackedFactors:
    """One model's factors of several jobs, each on its own group of rows, in one layout."""

    layout: Layout
    flat: Tensor
    """[groups, layout.size], every B times its job's scale."""
    dora: Tensor | None
    """[groups, layers], whether the group has a magnitude there; None if all have, or nobody has one."""

    @classmethod
    def of(cls, jobs: Sequence[LowRank | None], scales: Sequence[float], layout: Layout | None = None) -> PackedFactors:
        """The factors as they are now, in a layout that covers theirs; None leaves a group as the base has it."""
        layouts = [job.layout for job in jobs if job is not None]
        layout = Layout.covering(layouts) if layout is None else layout
        like = next(job.flat for job in jobs if job is not None)
        flat = [
            like.new_zeros(layout.size) if job is None else layout.embed(job.layout, job.flat, scale)
            for job, scale in zip(jobs, scales, strict=True)
        ]
        dora = [layout.magnitudes(None if job is None else job.layout) for job in jobs] if layout.dora else [[True]]
        masked = not all(all(own) for own in dora)
        return cls(layout, torch.stack(flat), torch.tensor(dora, device=like.device) if masked else None)

    def stacked(self, lora: RowLoRA) -> dict[str, Stacked]:
        """The layers' factors as row LoRA carries them; differentiable in `flat`."""
        return self.layout.stacked(lora, self.flat, self.dora)


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
        return cls.with_factors(new_factors(recipe, loaded, draws), recipe, loaded, draws)

    @classmethod
    def with_factors(
        cls, low_rank: dict[str, LowRank], recipe: Recipe, loaded: LoadedBase, draws: torch.Generator
    ) -> TrainableState:
        """The state with these factors, its tokens drawn after them from the same generator."""
        return cls(low_rank, recipe.scale(), _new_tokens(recipe, loaded, draws))

    def words_alone(self) -> TrainableState:
        """The tokens as they are now, for good, and no factors; makes the pictures of an untrained job before a step.

        Factors change nothing before they are trained: B is 0, and a magnitude is that of the base's weight.
        """
        if self.vectors is None:
            return TrainableState({}, self.scale, None)
        first, second = (nn.Parameter(each.detach().clone(), requires_grad=False) for each in self.vectors)
        return TrainableState({}, self.scale, (first, second), {"tokens"})

    def adapters(
        self, base: LoadedBase, parts: Sequence[str] = PARTS, weight: float = 1.0
    ) -> dict[str, dict[str, Stacked]]:
        """The factors as row LoRA carries them, by part of the base, for one group of rows; empty at weight 0."""
        return {part: packed.stacked(base.lora[part]) for part, packed in self.packed(parts, weight).items()}

    def packed(self, parts: Sequence[str] = PARTS, weight: float = 1.0) -> dict[str, PackedFactors]:
        """The factors as they are now, by part of the base, for one group of rows; empty at weight 0."""
        if not weight:
            return {}
        return {
            part: PackedFactors.of([self.low_rank[part]], [self.scale * weight])
            for part in parts
            if part in self.low_rank
        }

    def sets(self) -> list[ParameterSet]:
        """All parameters, in sets of one learning rate."""
        sets = []
        if UNET in self.low_rank:
            unet = self.low_rank[UNET]
            sets.append(ParameterSet("unet", [unet.flat], [unet.layout.shapes]))
        text = [self.low_rank[part] for part in TEXT_PARTS if part in self.low_rank]
        if text:
            sets.append(ParameterSet("text", [low.flat for low in text], [low.layout.shapes for low in text]))
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


def new_factors(recipe: Recipe, loaded: LoadedBase, draws: torch.Generator) -> dict[str, LowRank]:
    """Fresh factors of every part that a recipe trains."""
    low_rank: dict[str, LowRank] = {}
    if recipe.trains_unet:
        lora = loaded.lora[UNET]
        low_rank[UNET] = LowRank.new(lora, select(lora.linear, recipe.targets), recipe.rank, recipe.dora, draws)
    if recipe.text_encoder_lora is not None:
        rank = recipe.text_encoder_lora.rank or recipe.rank
        for part in TEXT_PARTS:
            lora = loaded.lora[part]
            low_rank[part] = LowRank.new(lora, select(lora.linear, TEXT), rank, recipe.dora, draws)
    return low_rank


def _new_tokens(recipe: Recipe, loaded: LoadedBase, draws: torch.Generator) -> tuple[nn.Parameter, nn.Parameter] | None:
    if recipe.pivotal is None:
        return None
    each: list[Vectors] = [
        new_vectors(loaded.prompts, recipe.pivotal.tokens, draws, recipe.pivotal.init_of(word))
        for word in recipe.pivotal.abstractions
    ]
    first, second = (torch.cat([vectors[i].detach() for vectors in each]).float().to(loaded.device) for i in (0, 1))
    return nn.Parameter(first), nn.Parameter(second)
