"""Training objectives: one small class per family, so that the training loop has no `if edm`.

Each draws noise levels, makes the network's input, and turns the network's output into a loss per sample. Noise,
preconditioning and loss are fp32; only the UNet's input is cast, by the caller. `z` is a clean latent in model space,
`n` standard noise, `sigma` and `t` as in the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet.errors import BaseModelError


@dataclass(frozen=True)
class Noisy:
    """What the UNet is shown: `x` [n, c, h, w] and `t` [n]; `level` is the drawn noise level, for the loss."""

    x: Tensor
    t: Tensor
    level: Tensor


class Objective(Protocol):
    """How a family of bases is trained."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws noise levels [count] from the job's own generator."""

    def noisy(self, z: Tensor, n: Tensor, level: Tensor) -> Noisy:
        """The network's input for clean latents `z`, noise `n` and levels."""

    def loss(self, output: Tensor, z: Tensor, n: Tensor, noisy: Noisy) -> Tensor:
        """Loss of each sample [n], weighted."""


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


@dataclass(frozen=True)
class EDMObjective:
    """EDM (Karras et al. 2022, eq. 8, table 1): D = c_skip x + c_out F(c_in x; c_noise), weight 1 / c_out^2."""

    sigma_data: float = 0.5
    P_mean: float = -1.2
    P_std: float = 1.2
    gamma: float | None = None
    """Min-SNR (Hang et al. 2023) on EDM: the weight of D's error is capped at gamma / sigma_data^2."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Ln sigma ~ N(P_mean, P_std^2)."""
        return (torch.randn(count, generator=generator) * self.P_std + self.P_mean).exp()

    def noisy(self, z: Tensor, n: Tensor, level: Tensor) -> Noisy:
        """X = z + sigma n, scaled by c_in; t is c_noise = ln(sigma) / 4."""
        sigma = _column(level)
        return Noisy((z + sigma * n) * (sigma**2 + self.sigma_data**2).rsqrt(), level.log() / 4, level)

    def loss(self, output: Tensor, z: Tensor, n: Tensor, noisy: Noisy) -> Tensor:
        """lambda(sigma) |D - z|^2 with lambda = 1 / c_out^2, or min(SNR, gamma) / sigma_data^2 + 1 / sigma_data^2."""
        sigma = _column(noisy.level)
        total = sigma**2 + self.sigma_data**2
        D = self.sigma_data**2 / total * (z + sigma * n) + sigma * self.sigma_data * total.rsqrt() * output.float()
        # 1 / c_out^2 = (SNR + 1) / sigma_data^2 with SNR = sigma_data^2 / sigma^2
        snr = self.sigma_data**2 / noisy.level**2
        weight = ((snr if self.gamma is None else snr.clamp(max=self.gamma)) + 1) / self.sigma_data**2
        return weight * (D - z).square().mean(dim=(1, 2, 3))


@dataclass(frozen=True)
class EpsilonObjective:
    """Noise prediction on the base's own discrete schedule (Ho et al. 2020, eq. 14)."""

    alphas_cumprod: Tensor
    gamma: float | None = None
    """Min-SNR (Hang et al. 2023, section 3.4): weight min(SNR, gamma) / SNR."""

    @classmethod
    def of(cls, scheduler: dict[str, Any], gamma: float | None) -> EpsilonObjective:
        """From a base's scheduler configuration."""
        config = {key: value for key, value in scheduler.items() if not key.startswith("_")}
        return cls(DDPMScheduler.from_config(config).alphas_cumprod, gamma)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform over the training timesteps."""
        return torch.randint(len(self.alphas_cumprod), (count,), generator=generator)

    def noisy(self, z: Tensor, n: Tensor, level: Tensor) -> Noisy:
        """X = sqrt(abar) z + sqrt(1 - abar) n."""
        abar = _column(self.alphas_cumprod.to(z.device)[level])
        return Noisy(abar.sqrt() * z + (1 - abar).sqrt() * n, level, level)

    def loss(self, output: Tensor, z: Tensor, n: Tensor, noisy: Noisy) -> Tensor:
        """w(t) |F - n|^2."""
        error = (output.float() - n).square().mean(dim=(1, 2, 3))
        if self.gamma is None:
            return error
        abar = self.alphas_cumprod.to(n.device)[noisy.level]
        snr = abar / (1 - abar)
        return error * snr.clamp(max=self.gamma) / snr


def objective_for(base: Base, recipe: Recipe) -> Objective:
    """The objective of a base's family, as its own scheduler configuration says."""
    if base.prediction == "edm":
        return EDMObjective(sigma_data=float(base.scheduler["sigma_data"]), gamma=recipe.min_snr_gamma)
    if base.prediction == "epsilon":
        return EpsilonObjective.of(base.scheduler, recipe.min_snr_gamma)
    raise BaseModelError(f"base {base.name!r} predicts v; training it is not built yet, use an epsilon or EDM base")
