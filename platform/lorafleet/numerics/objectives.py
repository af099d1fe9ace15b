"""Training objectives: one small class per family, so that the training loop has no `if edm`.

Every family has the same loss, w |F - F*|^2, on the network's raw output F. A class says what the network is shown (x),
what its output should be (F*), and how much the noise level counts (w, see `weighting`). Noise, preconditioning and
loss are fp32; only the UNet's input is cast, by the caller. `z` is a clean latent in model space, `n` standard noise,
`sigma` and `t` as in the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from lorafleet.numerics.noise_levels import NoiseDistribution
from lorafleet.numerics.weighting import OnOutput, Weighting

PLAIN = OnOutput()


@dataclass(frozen=True)
class Noisy:
    """The input of the UNet, `x` [n, c, h, w] and `t` [n]; `sigma` [n] is the noise level that was drawn."""

    x: Tensor
    t: Tensor
    sigma: Tensor


class Objective(Protocol):
    """How a family of bases is trained."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels sigma [count] on the CPU, from the job's own generator."""

    def noisy(self, z: Tensor, n: Tensor, sigma: Tensor) -> Noisy:
        """The network's input for clean latents `z`, noise `n` and levels [n]."""

    def target(self, z: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
        """F* [n, c, h, w], what the network's output should be."""

    def weight(self, sigma: Tensor) -> Tensor:
        """The weight [n] of the squared error of F."""


@dataclass(frozen=True, eq=False)
class Timesteps:
    """A discrete schedule as noise levels: sigma_t = sqrt((1 - abar_t) / abar_t), ascending in t."""

    sigmas: Tensor

    @classmethod
    def of(cls, scheduler: dict[str, Any]) -> Timesteps:
        """From a base's scheduler configuration; the last level of a zero-terminal-SNR schedule is infinite."""
        config = {key: value for key, value in scheduler.items() if not key.startswith("_")}
        abar = DDPMScheduler.from_config(config).alphas_cumprod.double()
        return cls(((1 - abar) / abar).sqrt().float())

    def nearest(self, sigma: Tensor) -> Tensor:
        """The timesteps [n] whose level is nearest, by its arc tangent; the schedule's own levels give their own."""
        angles = torch.atan(self.sigmas.double()).to(sigma.device)  # in sigma's order, and finite where sigma is not
        return (torch.atan(sigma.double())[:, None] - angles[None]).abs().argmin(dim=1)

    def between(self, sigma: Tensor) -> Tensor:
        """Fractional timesteps [n], linear in ln sigma between two of the schedule's."""
        logs, wanted = self.sigmas.to(sigma.device).log(), sigma.log()
        low = (torch.searchsorted(logs, wanted.contiguous()) - 1).clamp(0, len(logs) - 2)
        return low + ((wanted - logs[low]) / (logs[low + 1] - logs[low])).clamp(0, 1)


@dataclass(frozen=True)
class DiscreteObjective:
    """A base with timesteps, trained at these alone; its subclasses say what the network predicts."""

    timesteps: Timesteps
    distribution: NoiseDistribution
    weighting: Weighting = PLAIN

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Levels sigma [count] of the schedule: what the distribution draws, moved to the nearest."""
        return self.timesteps.sigmas[self.timesteps.nearest(self.distribution.draw(count, generator))]

    def noisy(self, z: Tensor, n: Tensor, sigma: Tensor) -> Noisy:
        """x = sqrt(abar) z + sqrt(1 - abar) n."""
        alpha, beta = _alpha_beta(sigma)
        return Noisy(alpha * z + beta * n, self.timesteps.nearest(sigma), sigma)

    def target(self, z: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
        """F* [n, c, h, w], what the network's output should be."""
        raise NotImplementedError

    def weight(self, sigma: Tensor) -> Tensor:
        """The weight [n] of the squared error of F."""
        raise NotImplementedError


class EpsilonObjective(DiscreteObjective):
    """Noise prediction at the base's own timesteps (Ho et al. 2020, eq. 14): F* = n."""

    def target(self, z: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
        """F* = n, the noise."""
        return n

    def weight(self, sigma: Tensor) -> Tensor:
        """w for k = 1 / SNR, since |F - n|^2 = SNR |D - z|^2."""
        snr = (sigma**-2).clamp(min=1e-8)  # at zero terminal SNR both sides vanish
        return self.weighting(snr, 1 / snr)


class VPredictionObjective(DiscreteObjective):
    """Velocity prediction (Salimans & Ho 2022, appendix D): F* = v = sqrt(abar) n - sqrt(1 - abar) z."""

    def target(self, z: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
        """F* = v, the velocity."""
        alpha, beta = _alpha_beta(sigma)
        return alpha * n - beta * z

    def weight(self, sigma: Tensor) -> Tensor:
        """w for k = 1 / (SNR + 1), since |F - v|^2 = (SNR + 1) |D - z|^2."""
        snr = sigma**-2
        return self.weighting(snr, 1 / (snr + 1))


@dataclass(frozen=True)
class EDMObjective:
    """A denoiser D = c_skip x + c_out F of x = z + sigma n (Karras et al. 2022, section 5 and table 1)."""

    distribution: NoiseDistribution
    weighting: Weighting = PLAIN
    sigma_data: float = 0.5

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Levels sigma [count] of the distribution."""
        return self.distribution.draw(count, generator)

    def noisy(self, z: Tensor, n: Tensor, sigma: Tensor) -> Noisy:
        """x = c_in (z + sigma n) with c_in = 1 / sqrt(sigma^2 + sigma_data^2); t is c_noise = ln(sigma) / 4."""
        s = _column(sigma)
        return Noisy((z + s * n) * (s**2 + self.sigma_data**2).rsqrt(), sigma.log() / 4, sigma)

    def target(self, z: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
        """F* = (z - c_skip (z + sigma n)) / c_out, written so that nothing cancels where sigma is small or large."""
        s = _column(sigma)
        return (s * z / self.sigma_data - self.sigma_data * n) * (s**2 + self.sigma_data**2).rsqrt()

    def weight(self, sigma: Tensor) -> Tensor:
        """w for k = c_out^2 / sigma_data^2 = 1 / (SNR + 1) with SNR = sigma_data^2 / sigma^2."""
        snr = (self.sigma_data / sigma) ** 2
        return self.weighting(snr, 1 / (snr + 1))


@dataclass(frozen=True)
class ContinuousObjective:
    """A base with timesteps trained as a denoiser of z + sigma n at any level (Karras et al. 2022, table 1).

    The network stays what it is: an epsilon base has c_skip = 1 and c_out = -sigma, a v base c_skip = 1 / (sigma^2 + 1)
    and c_out = -sigma / sqrt(sigma^2 + 1); its target and k are those of `inner`. With `OnOutput` and uniform timesteps
    this is the ordinary loss. So is diffusers' `--do_edm_style_training` on an epsilon base; on a v base it is not: the
    script weighs |D - z|^2 by sigma^-2 on both, which there is |F - v|^2 by SNR / (SNR + 1).
    """

    inner: DiscreteObjective
    distribution: NoiseDistribution

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Levels sigma [count] of the distribution, clamped to the range of the base's finite ones."""
        sigmas = self.inner.timesteps.sigmas
        return self.distribution.draw(count, generator).clamp(float(sigmas[0]), float(sigmas[sigmas.isfinite()][-1]))

    def noisy(self, z: Tensor, n: Tensor, sigma: Tensor) -> Noisy:
        """x = c_in (z + sigma n) with c_in = 1 / sqrt(sigma^2 + 1); t lies between two timesteps."""
        alpha, beta = _alpha_beta(sigma)
        return Noisy(alpha * z + beta * n, self.inner.timesteps.between(sigma), sigma)

    def target(self, z: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
        """F* of the base's own family: noise or velocity."""
        return self.inner.target(z, n, sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        """The weight [n] of the base's own family."""
        return self.inner.weight(sigma)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _alpha_beta(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar) and sqrt(1 - abar) of levels [n], each [n, 1, 1, 1]."""
    alpha = (sigma**2 + 1).rsqrt()
    return _column(alpha), _column(torch.where(sigma.isinf(), 1.0, sigma * alpha))
