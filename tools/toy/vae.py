"""Trains the toy world's VAE: an ordinary `AutoencoderKL` with factor 4, L1 + L2 + edge + KL loss."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from toy.data import Pictures, to_unit


def new_vae() -> AutoencoderKL:
    """An untrained VAE: 32 px pictures to 4 x 8 x 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
    )


def edges(x: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical differences, [n, 2c, h-1, w-1]: a loss on them keeps outlines sharp."""
    return torch.cat([x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]], dim=1)


def train_vae(
    data: Pictures, steps: int, batch: int = 64, kl_weight: float = 1e-4, start: AutoencoderKL | None = None
) -> AutoencoderKL:
    """Trains for `steps` batches with AdamW and a one-cycle learning rate."""
    torch.manual_seed(0)
    vae = (start or new_vae()).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.05)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(data.pixels), (batch,), generator=order)
        x = to_unit(data.pixels[rows])
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        loss = (
            F.l1_loss(y, x)
            + 2 * F.mse_loss(y, x)
            + 0.5 * F.l1_loss(edges(y), edges(x))
            + kl_weight * posterior.kl().mean() / 256
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"vae {step}/{steps} loss {loss.item():.4f}", flush=True)
    return vae.eval()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of reconstructions from the latent mean, over all pictures."""
    errors = []
    for chunk in pixels.split(256):
        x = to_unit(chunk)
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append(((y - x) ** 2).mean(dim=(1, 2, 3)) / 4)
    return float(-10 * torch.log10(torch.cat(errors).mean()))


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Latent means [n, 4, 8, 8], unscaled."""
    return torch.cat([vae.encode(to_unit(chunk)).latent_dist.mode() for chunk in pixels.split(256)])
