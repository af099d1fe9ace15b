"""The full SDXL architecture with random weights, for tests and benchmarks of speed and memory without a download.

Its pictures are noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorafleet.bases import Base
from lorafleet.loaded import LoadedBase
from lorafleet.toy.tokenizer import build_tokenizer
from lorafleet.toy.world import WORDS
from toy.denoiser import BETAS

UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNET_PARAMETERS = 2_567_463_684
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
}


def sdxl_random(folder: Path, dtype: torch.dtype = torch.bfloat16, device: str = "cpu", seed: int = 0) -> LoadedBase:
    """A loaded base of SDXL's shape; its configuration and a file that identifies the seed are written to `folder`."""
    generator = torch.Generator(device).manual_seed(seed)
    clip_l, clip_g = text_configs()

    def part(make: Any, dtype: torch.dtype) -> Any:
        with torch.device("meta"):
            module = make()
        return _fill(module.to(dtype).to_empty(device=device), generator)

    unet = part(lambda: UNet2DConditionModel(**UNET), dtype)
    vae = part(lambda: AutoencoderKL(**VAE), torch.float32)
    encoders = (part(lambda: CLIPTextModel(clip_l), dtype), part(lambda: CLIPTextModelWithProjection(clip_g), dtype))
    for encoder in encoders:
        embeddings: Any = getattr(encoder, "text_model", encoder).embeddings
        embeddings.position_ids = torch.arange(77, device=device)[None]
    tokenizers = (build_tokenizer(WORDS), build_tokenizer(WORDS, "!"))
    for tokenizer in tokenizers:
        tokenizer.model_max_length = 77
    _write_configuration(folder, unet, vae, encoders, seed)
    return LoadedBase.of_parts(Base("sdxl-random", folder), unet, vae, encoders, tokenizers, device)


def text_configs() -> tuple[CLIPTextConfig, CLIPTextConfig]:
    """Of the two text encoders."""
    return _text_config(768, 12, 12, 768, "quick_gelu"), _text_config(1280, 32, 20, 1280, "gelu")


def _text_config(width: int, layers: int, heads: int, projection: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, projection_dim=projection, hidden_act=activation, eos_token_id=2,
    )  # fmt: skip


@torch.no_grad()
def _fill(module: Any, generator: torch.Generator) -> Any:
    """Weights at a scale that stays finite through any depth: N(0, 0.02^2), norms at one, biases at zero."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.02, generator=generator)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return module


def _write_configuration(
    folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, encoders: tuple[Any, Any], seed: int
) -> None:
    for name, module in (("unet", unet), ("vae", vae)):
        module.save_config(folder / name)
    for name, encoder in zip(("text_encoder", "text_encoder_2"), encoders, strict=True):
        encoder.config.save_pretrained(folder / name)
    EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": True}))
    stems = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "text_encoder_2": "model"}
    for name, stem in stems.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file({"made_from_seed": torch.tensor([seed])}, folder / name / f"{stem}.safetensors")
