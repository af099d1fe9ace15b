"""Trains a toy base: UNet and both text encoders together, on cached latents, for one objective.

Knows the two parametrisations that the bases ship with, EDM (Karras et al. 2022) and epsilon (Ho et al. 2020, with
min-SNR weights, Hang et al. 2023). Uses ordinary diffusers and transformers classes in SDXL's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lorafleet.toy.tokenizer import MAX_LENGTH
from toy.time_bound import Limits, train

BATCH, LEARNING_RATE = 256, 1e-3
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
        at = pooled_at[:, None, None].expand(-1, 1, WIDTHS[1])
        pooled = self.text_encoder_2.text_projection(two.last_hidden_state.gather(1, at).squeeze(1))
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

    def to(self, device: torch.device) -> Latents:
        """The same on a device."""
        ids = (self.ids[0].to(device), self.ids[1].to(device))
        return Latents(self.z.to(device), ids, self.time_ids.to(device))


Loss = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor]


def edm_loss(
    denoise: Callable[[Tensor, Tensor], Tensor], z: Tensor, P_mean: float = -0.4, P_std: float = 1.4
) -> Tensor:
    """EDM's loss (Karras et al. 2022, eq. 8) with sigma_data 0.5; `z` is standardised.

    It looks at more noise than the paper's table 1 does (-1.2, 1.2), where colour and layout are decided.
    """
    sigma_data = 0.5
    z = z * sigma_data
    sigma = (torch.randn(len(z), device=z.device) * P_std + P_mean).exp()[:, None, None, None]
    x = z + sigma * torch.randn_like(z)
    total = sigma**2 + sigma_data**2
    c_skip, c_out, c_in = sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()
    target = (z - c_skip * x) / c_out  # lambda = 1 / c_out^2 makes this a plain squared error of F
    return (denoise(c_in * x, sigma.log().flatten() / 4) - target).square().mean()


def epsilon_loss(device: torch.device) -> Loss:
    """DDPM's noise-prediction loss with min-SNR-5 weights (Hang et al. 2023, section 3.4)."""
    alphas = DDPMScheduler(**BETAS).alphas_cumprod.to(device)

    def loss(denoise: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Tensor:
        t = torch.randint(1000, (len(z),), device=z.device)
        a = alphas[t][:, None, None, None]
        noise = torch.randn_like(z)
        error = (denoise(a.sqrt() * z + (1 - a).sqrt() * noise, t) - noise).square().mean(dim=(1, 2, 3))
        snr = (a / (1 - a)).flatten()
        weight = snr.clamp(max=5.0) / snr
        return (error * weight).mean()

    return loss


def _draw_conditioning(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows keep their text (nine in ten) and where each is pooled: at the end, or three in ten times before."""

    def uniform() -> Tensor:
        return torch.rand(len(ids), device=ids.device)

    keep = (uniform() > 0.1).float()
    end = ids.argmax(dim=-1)  # the end token has the largest id
    return keep, torch.where(uniform() < 0.3, (uniform() * end).long() + 1, end)


def train_base(
    name: str,
    base: Base,
    data: Latents,
    loss: Loss,
    limits: Limits,
    checkpoint: Callable[[nn.Module], None],
    checkpoint_every: float = 40.0,
    batch: int = BATCH,
) -> Base:
    """Trains a base on latents on its device and returns the moving average; `checkpoint` gets it from time to time."""

    def batch_loss() -> Tensor:
        rows = torch.randint(len(data.z), (batch,), device=data.z.device)
        ids, time_ids = (data.ids[0][rows], data.ids[1][rows]), data.time_ids[rows]
        keep, pooled_at = _draw_conditioning(ids[0])
        return loss(partial(base, ids=ids, time_ids=time_ids, keep=keep, pooled_at=pooled_at), data.z[rows])

    return train(name, base, batch_loss, limits, LEARNING_RATE, checkpoint, checkpoint_every)
