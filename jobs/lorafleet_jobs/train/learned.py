"""What one job learns: low-rank factors of the UNet and, with pivotal tuning, token vectors; fp32 master weights.

The factors are views of one flat parameter. Optimizers work element by element, so this changes nothing but the
number of kernel launches: a step of Prodigy on 112 small matrices takes longer than the UNet they adapt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorafleet.config import Recipe
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.rowlora import Factors, new_factors, stack
from lorafleet.numerics.text import new_vectors


@dataclass
class Learned:
    """The trainable state of one job."""

    flat: nn.Parameter
    """All factors, layer by layer, A before B."""
    shapes: Mapping[str, tuple[int, int]]
    rank: int
    scale: float
    vectors: tuple[nn.Parameter, nn.Parameter] | None
    """Token vectors of both encoders, [n, w1] and [n, w2]."""

    @classmethod
    def new(cls, recipe: Recipe, loaded: LoadedBase, generator: torch.Generator) -> Learned:
        """Fresh state, drawn from the job's own generator."""
        shapes = loaded.row_lora.shapes()
        factors = new_factors(shapes, recipe.rank, generator)
        flat = torch.cat([t.detach().flatten() for f in factors.values() for t in (f.A, f.B)])
        vectors = None
        if recipe.pivotal is not None:
            fresh = new_vectors(loaded.prompts, recipe.pivotal.tokens, generator, recipe.pivotal.init)
            vectors = (_parameter(fresh[0], loaded), _parameter(fresh[1], loaded))
        return cls(_parameter(flat, loaded), shapes, recipe.rank, recipe.scale(), vectors)

    def factors(self) -> dict[str, Factors]:
        """The factors by layer name, as differentiable views of the flat parameter."""
        sizes = [size for n_in, n_out in self.shapes.values() for size in (self.rank * n_in, n_out * self.rank)]
        parts = iter(self.flat.split(sizes))
        return {
            name: Factors(next(parts).view(self.rank, n_in), next(parts).view(n_out, self.rank))
            for name, (n_in, n_out) in self.shapes.items()
        }

    def install(self, loaded: LoadedBase, weight: float = 1.0) -> None:
        """Makes the base's next forward carry this adapter on every row."""
        loaded.row_lora.set(stack([[(self.factors(), self.scale * weight)]], self.shapes))

    def parameters(self) -> list[nn.Parameter]:
        """Everything trainable."""
        return [self.flat, *(self.vectors or ())]


def _parameter(values: Tensor, loaded: LoadedBase) -> nn.Parameter:
    return nn.Parameter(values.detach().float().to(loaded.device))
