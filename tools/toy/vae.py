"""The toy world's VAE: an ordinary `AutoencoderKL` of factor 8, trained with an L1 + L2 + edge + KL loss."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from toy.data import SIDE, to_unit
from toy.time_bound import Limits, train

BATCH, LEARNING_RATE, KL_WEIGHT = 128, 2e-3, 1e-4


def new_vae() -> AutoencoderKL:
    """An untrained VAE: 64 px pictures to 4 x 8 x 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 48, 64, 88),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


def edges(x: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical differences, [n, 2c, h-1, w-1]: a loss on them keeps outlines sharp."""
    return torch.cat([x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]], dim=1)


def train_vae(pixels: torch.Tensor, limits: Limits, batch: int = BATCH) -> AutoencoderKL:
    """Trains on `pixels` [n, 3, 64, 64] uint8, on their device."""
    torch.manual_seed(0)
    vae = new_vae().to(pixels.device)

    def loss() -> torch.Tensor:
        x = to_unit(pixels[torch.randint(len(pixels), (batch,), device=pixels.device)])
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.mean + posterior.std * torch.randn_like(posterior.mean)).sample
        return (
            F.l1_loss(y, x)
            + 2 * F.mse_loss(y, x)
            + 0.5 * F.l1_loss(edges(y), edges(x))
            + KL_WEIGHT * posterior.kl().mean() / 256
        )

    return train("vae", vae, loss, limits, LEARNING_RATE)


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures [n, 3, h, w] in [-1, 1] from the latent means of uint8 ones."""
    chunks = (to_unit(chunk) for chunk in pixels.split(250))
    return torch.cat([vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1) for x in chunks])


def psnr(again: torch.Tensor, pixels: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of reconstructions in [-1, 1] of uint8 pictures, over all of them."""
    return float(-10 * torch.log10((again - to_unit(pixels)).square().mean() / 4))


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Latent means [n, 4, 8, 8], unscaled."""
    return torch.cat([vae.encode(to_unit(chunk)).latent_dist.mode() for chunk in pixels.split(500)])
