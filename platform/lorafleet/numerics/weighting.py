"""How much each noise level counts in the loss, for all families of bases alike.

Every family's loss is w |F - F*|^2 on the network's raw output F. The literature mostly weighs the error of the clean
image, u |D - z|^2 (data of unit variance), and a family knows the factor k(SNR) between the two: w = k u. SNR is
1 / sigma^2 for bases with timesteps and sigma_data^2 / sigma^2 for EDM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

GAMMA = 5.0
"""Hang et al. 2023, section 4: the value that was best throughout."""


class Weighting(Protocol):
    """How the squared error of the network's output is weighted by noise level."""

    def __call__(self, snr: Tensor, k: Tensor) -> Tensor:
        """Weights [n] for signal-to-noise ratios [n] and the family's factors [n]."""


@dataclass(frozen=True)
class OnOutput:
    """Every level's output error counts the same: eq. 14 of Ho et al. 2020; for EDM it is lambda = 1 / c_out^2."""

    def __call__(self, snr: Tensor, k: Tensor) -> Tensor:
        """w = 1."""
        return snr.new_ones(snr.shape)


@dataclass(frozen=True)
class OnImage:
    """Every level's image error counts the same, lambda = 1: what diffusers' scripts do on EDM bases."""

    variance: float = 1.0
    """The variance of the data; k is for data of unit variance."""

    def __call__(self, snr: Tensor, k: Tensor) -> Tensor:
        """w = k, scaled to the data's variance."""
        return k * self.variance


@dataclass(frozen=True)
class MinSNR:
    """Min-SNR-gamma (Hang et al. 2023, section 3.4): u = min(SNR, gamma).

    Hence min(SNR, gamma) / SNR on epsilon bases and min(SNR, gamma) / (SNR + 1) on v and EDM bases.
    """

    gamma: float = GAMMA

    def __call__(self, snr: Tensor, k: Tensor) -> Tensor:
        """w = k min(SNR, gamma)."""
        return k * snr.clamp(max=self.gamma)


@dataclass(frozen=True)
class Debiased:
    """Debiased estimation (Yu et al. 2023, eq. 10): 1 / sqrt(SNR) on epsilon, hence u = sqrt(SNR)."""

    def __call__(self, snr: Tensor, k: Tensor) -> Tensor:
        """w = k sqrt(SNR)."""
        return k * snr.sqrt()
