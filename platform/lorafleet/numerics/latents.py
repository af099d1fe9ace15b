"""Between a VAE's latents and the diffusion model's: scaling factor, and latent mean and std where a base has them.

Playground v2.5 (and toy-playground) standardise by their own mean and std; SDXL only scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@dataclass(frozen=True)
class LatentScale:
    """z = (latent - mean) * factor / std, and back; mean and std are [1, c, 1, 1]."""

    factor: float
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, vae: AutoencoderKL) -> LatentScale:
        """Reads a VAE's configuration."""
        config = vae.config
        channels = config.latent_channels
        mean = config.latents_mean if config.latents_mean is not None else [0.0] * channels
        std = config.latents_std if config.latents_std is not None else [1.0] * channels
        return cls(float(config.scaling_factor), _column(mean), _column(std))

    def to_model(self, latent: Tensor) -> Tensor:
        """VAE latents as the UNet sees them."""
        return (latent - self.mean.to(latent)) * self.factor / self.std.to(latent)

    def to_vae(self, z: Tensor) -> Tensor:
        """The UNet's latents as the VAE decodes them."""
        return z * self.std.to(z) / self.factor + self.mean.to(z)


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
