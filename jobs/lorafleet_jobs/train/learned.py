"""What one job learns: low-rank factors of the UNet and the text encoders, and token vectors; fp32 master weights.

All factors of one model are views of one flat parameter. Optimizers work element by element, so this changes nothing
but the number of kernel launches: a step of Prodigy on 112 small matrices takes longer than the UNet they adapt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from lorafleet.config import Recipe
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.factors import Factors
from lorafleet.numerics.rowlora import RowDropout, RowLoRA
from lorafleet.numerics.text import Vectors, new_vectors
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, UNET, select

Kind = Literal["unet", "text", "tokens"]


@dataclass
class ParameterSet:
    """Parameters that share a learning rate and are frozen together."""

    kind: Kind
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
        shapes = lora.shapes()
        parts: list[Tensor] = []
        for name in layers:
            n_in, n_out = shapes[name]
            parts += [torch.randn(rank * n_in, generator=draws) / rank, torch.zeros(n_out * rank)]
            if dora:
                parts.append(lora.layers[name].base.weight.detach().float().norm(dim=1).cpu())
        device = next(iter(lora.layers.values())).base.weight.device
        return cls(nn.Parameter(torch.cat(parts).to(device)), {name: shapes[name] for name in layers}, rank, dora)

    def shapes(self) -> list[torch.Size]:
        """Of the tensors in `flat`, in their order."""
        found = []
        for n_in, n_out in self.layers.values():
            found += [torch.Size((self.rank, n_in)), torch.Size((n_out, self.rank))]
            found += [torch.Size((n_out,))] if self.dora else []
        return found

    def factors(self) -> dict[str, Factors]:
        """By layer name, as differentiable views of the flat parameter."""
        shapes = self.shapes()
        tensors = [t.view(s) for t, s in zip(self.flat.split([s.numel() for s in shapes]), shapes, strict=True)]
        each = 3 if self.dora else 2
        return {name: Factors(*tensors[i * each : (i + 1) * each]) for i, name in enumerate(self.layers)}


@dataclass
class Learned:
    """The trainable state of one job."""

    low_rank: dict[str, LowRank]
    """By `lorafleet.targets.PARTS`; empty for textual inversion alone."""
    scale: float
    vectors: tuple[nn.Parameter, nn.Parameter] | None
    """Token vectors of both encoders, [n, w1] and [n, w2]."""
    frozen: set[Kind] = field(default_factory=set)

    @classmethod
    def new(cls, recipe: Recipe, loaded: LoadedBase, draws: torch.Generator) -> Learned:
        """Fresh state, drawn from the job's own generator."""
        low_rank: dict[str, LowRank] = {}
        if recipe.trains_unet:
            lora = loaded.lora[UNET]
            layers = select(lora.layers, recipe.targets)
            low_rank[UNET] = LowRank.new(lora, layers, recipe.rank, recipe.dora, draws)
        if recipe.text_encoder_lora is not None:
            rank = recipe.text_encoder_lora.rank or recipe.rank
            for part in (TEXT_ENCODER, TEXT_ENCODER_2):
                lora = loaded.lora[part]
                low_rank[part] = LowRank.new(lora, list(lora.layers), rank, recipe.dora, draws)
        return cls(low_rank, recipe.scale(), _new_tokens(recipe, loaded, draws))

    def install(self, loaded: LoadedBase, weight: float = 1.0, dropout: RowDropout | None = None) -> None:
        """Makes the base's next calls carry this adapter on every row."""
        for part, lora in loaded.lora.items():
            if part in self.low_rank:
                lora.carry([[(lora.with_norms(self.low_rank[part].factors()), self.scale * weight)]], dropout)
            else:
                lora.set(None)

    def sets(self) -> list[ParameterSet]:
        """Everything trainable, by learning rate."""
        found = []
        if UNET in self.low_rank:
            unet = self.low_rank[UNET]
            found.append(ParameterSet("unet", [unet.flat], [unet.shapes()]))
        text = [self.low_rank[part] for part in (TEXT_ENCODER, TEXT_ENCODER_2) if part in self.low_rank]
        if text:
            found.append(ParameterSet("text", [low.flat for low in text], [low.shapes() for low in text]))
        if self.vectors is not None:
            found.append(ParameterSet("tokens", list(self.vectors), [[v.shape] for v in self.vectors]))
        return found

    def parameters(self) -> list[nn.Parameter]:
        """Everything that was or is trained."""
        return [parameter for each in self.sets() for parameter in each.parameters]

    def freeze(self, kind: Kind) -> None:
        """From here on these are constants: no gradient, so that no optimizer touches them, weight decay included."""
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


def _new_tokens(recipe: Recipe, loaded: LoadedBase, draws: torch.Generator) -> tuple[nn.Parameter, nn.Parameter] | None:
    if recipe.pivotal is None:
        return None
    each: list[Vectors] = [
        new_vectors(loaded.prompts, recipe.pivotal.tokens, draws, recipe.pivotal.init_of(word))
        for word in recipe.pivotal.abstractions
    ]
    one, two = (torch.cat([vectors[i].detach() for vectors in each]).float().to(loaded.device) for i in (0, 1))
    return nn.Parameter(one), nn.Parameter(two)
