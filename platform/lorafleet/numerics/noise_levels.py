"""How noise levels sigma are drawn while training. Knows distributions; refuses to know what is done with a level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class NoiseDistribution(Protocol):
    """A distribution of noise levels."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Levels sigma [count] on the CPU, from the job's own generator."""


@dataclass(frozen=True)
class Lognormal:
    """ln sigma ~ N(P_mean, P_std^2) (Karras et al. 2022, table 1)."""

    P_mean: float = -1.2
    P_std: float = 1.2

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Levels sigma [count], which nothing bounds."""
        return (torch.randn(count, generator=generator) * self.P_std + self.P_mean).exp()


@dataclass(frozen=True, eq=False)
class Uniform:
    """Each of a base's levels is as likely as any other: timesteps of a discrete base (Ho et al. 2020)."""

    sigmas: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Levels sigma [count] among the given ones."""
        return self.sigmas.index_select(0, torch.randint(len(self.sigmas), (count,), generator=generator))


def karras_grid(sigma_min: float, sigma_max: float, rho: float = 7.0, count: int = 1000) -> Tensor:
    """Levels [count] from `sigma_max` down to `sigma_min` (Karras et al. 2022, eq. 5), as diffusers draws for EDM."""
    ramp = torch.linspace(0, 1, count, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    grid: Tensor = (high + ramp * (low - high)) ** rho
    return grid.float()
