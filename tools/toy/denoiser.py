"""Trains a toy base: UNet and both text encoders together, on cached latents, for one objective.

Knows the two parametrisations that the bases ship with, EDM (Karras et al. 2022) and epsilon (Ho et al. 2020, with
min-SNR weights, Hang et al. 2023). Uses ordinary diffusers and transformers classes in SDXL's shape.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lorafleet.toy.tokenizer import MAX_LENGTH

WIDTHS = (48, 64)  # of the two text encoders
BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


class Base(nn.Module):
    """UNet and text encoders as one module, so that one optimizer and one moving average cover them."""

    def __init__(self, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]) -> None:
        super().__init__()
        self.tokenizers = tokenizers
        self.text_encoder = CLIPTextModel(_text_config(WIDTHS[0], len(tokenizers[0])))
        self.text_encoder_2 = CLIPTextModelWithProjection(_text_config(WIDTHS[1], len(tokenizers[1])))
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(48, 96, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 1, 1),
            attention_head_dim=(3, 6, 8),
            cross_attention_dim=sum(WIDTHS),
            use_linear_projection=True,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=16,
            projection_class_embeddings_input_dim=6 * 16 + WIDTHS[1],
        )

    def forward(
        self, x: Tensor, t: Tensor, ids: tuple[Tensor, Tensor], time_ids: Tensor, keep: Tensor, pooled_at: Tensor
    ) -> Tensor:
        """UNet output [n, 4, 8, 8]; rows with `keep` 0 see zeros for text, SDXL's unconditional input.

        `pooled_at` [n] is the position of the pooled vector. With SDXL's legacy configuration it is the last *learned*
        token's in a prompt that has one, in mid-sentence; a base that only ever saw the end token's would break on it.
        """
        one = self.text_encoder(ids[0], output_hidden_states=True)
        two = self.text_encoder_2(ids[1], output_hidden_states=True)
        context = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1) * keep[:, None, None]
        pooled = self.text_encoder_2.text_projection(two.last_hidden_state[torch.arange(len(x)), pooled_at])
        extra = {"text_embeds": pooled * keep[:, None], "time_ids": time_ids}
        output: Tensor = self.unet(x, t, context, added_cond_kwargs=extra, return_dict=False)[0]
        return output


def _text_config(width: int, vocabulary: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=2,  # SDXL's published configs say 2 as well: the pooled vector is taken at the largest id
        pad_token_id=1,
    )


@dataclass
class Latents:
    """Standardised latents [n, 4, 8, 8] with their token ids (one [n, 32] per encoder) and time ids [n, 6]."""

    z: Tensor
    ids: tuple[Tensor, Tensor]
    time_ids: Tensor


Loss = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor]


def edm_loss(
    denoise: Callable[[Tensor, Tensor], Tensor], z: Tensor, P_mean: float = -0.8, P_std: float = 1.2
) -> Tensor:
    """EDM's loss (Karras et al. 2022, eq. 8, table 1) with sigma_data 0.5; `z` is standardised."""
    sigma_data = 0.5
    z = z * sigma_data
    sigma = (torch.randn(len(z)) * P_std + P_mean).exp()[:, None, None, None]
    x = z + sigma * torch.randn_like(z)
    total = sigma**2 + sigma_data**2
    c_skip, c_out, c_in = sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()
    target = (z - c_skip * x) / c_out  # lambda = 1 / c_out^2 makes this a plain squared error of F
    return (denoise(c_in * x, sigma.log().flatten() / 4) - target).square().mean()


def epsilon_loss(denoise: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
    """DDPM's noise-prediction loss with min-SNR-5 weights (Hang et al. 2023, section 3.4)."""
    alphas = DDPMScheduler(**BETAS).alphas_cumprod
    t = torch.randint(1000, (len(z),))
    a = alphas[t][:, None, None, None]
    noise = torch.randn_like(z)
    error = (denoise(a.sqrt() * z + (1 - a).sqrt() * noise, t) - noise).square().mean(dim=(1, 2, 3))
    snr = (a / (1 - a)).flatten()
    weight: Tensor = snr.clamp(max=5.0) / snr
    return (error * weight).mean()


def _draw_conditioning(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows keep their text (nine in ten) and where each is pooled: at the end, or three in ten times before."""
    keep = (torch.rand(len(ids)) > 0.1).float()
    end = ids.argmax(dim=-1)  # the end token has the largest id
    return keep, torch.where(torch.rand(len(ids)) < 0.3, (torch.rand(len(ids)) * end).long() + 1, end)


def train_base(
    base: Base,
    data: Latents,
    loss: Loss,
    steps: int,
    lr: float,
    batch: int = 64,
    checkpoint: Callable[[Base], None] = lambda average: None,
) -> Base:
    """Trains with AdamW (linear warm-up, cosine decay) and returns the exponential moving average.

    `checkpoint` is handed the average every 500 steps.
    """
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(base.parameters(), lr=lr, weight_decay=1e-2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=steps, pct_start=min(0.05, 500 / steps)
    )
    average = copy.deepcopy(base).requires_grad_(False)
    run, start = base.train(), time.monotonic()
    for step in range(steps):
        rows = torch.randint(len(data.z), (batch,))
        ids, time_ids = (data.ids[0][rows], data.ids[1][rows]), data.time_ids[rows]
        keep, pooled_at = _draw_conditioning(ids[0])
        denoise = partial(run, ids=ids, time_ids=time_ids, keep=keep, pooled_at=pooled_at)
        value = loss(denoise, data.z[rows])
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(1 - 4 / steps, (1 + step) / (10 + step))  # a quarter of the run
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(base.parameters()), 1 - decay)
        if step % 100 == 0:
            rate = (step + 1) * batch / (time.monotonic() - start)
            print(f"base {step}/{steps} loss {value.item():.4f} {rate:.0f} images/s", flush=True)
        if step % 500 == 499:
            checkpoint(average)
    return average.eval()
