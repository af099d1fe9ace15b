"""Puts trained parts together as ordinary diffusers pipelines on disk."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EDMDPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
)

from toy.denoiser import BETAS, Base

KINDS = ("toy-sdxl", "toy-playground")


def latent_statistics(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, [1, c, 1, 1]."""
    return latents.mean(dim=(0, 2, 3), keepdim=True), latents.std(dim=(0, 2, 3), keepdim=True)


def standardise(kind: str, latents: torch.Tensor) -> torch.Tensor:
    """Latents as a base of this kind sees them, at unit scale: each channel for Playground, one factor for SDXL."""
    mean, std = latent_statistics(latents)
    return (latents - mean) / std if kind == "toy-playground" else latents / latents.std()


def pipeline_of(kind: str, base: Base, vae: AutoencoderKL, latents: torch.Tensor) -> StableDiffusionXLPipeline:
    """A pipeline of copies of the parts; `latents` [n, c, h, w], unscaled, say what the VAE's are like."""
    vae, base = copy.deepcopy(vae), copy.deepcopy(base)
    if kind == "toy-playground":
        mean, std = latent_statistics(latents)
        vae.register_to_config(
            scaling_factor=0.5, latents_mean=mean.flatten().tolist(), latents_std=std.flatten().tolist()
        )
        scheduler = EDMDPMSolverMultistepScheduler(sigma_data=0.5, sigma_min=0.002, sigma_max=80.0, rho=7.0)
    else:
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
        scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1)
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=base.text_encoder,
        text_encoder_2=base.text_encoder_2,
        tokenizer=base.tokenizers[0],
        tokenizer_2=base.tokenizers[1],
        unet=base.unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def save_fp16(part: StableDiffusionXLPipeline | AutoencoderKL, folder: Path) -> None:
    """Saves a pipeline or a VAE in the diffusers layout, as fp16 safetensors; what it was is left as it is."""
    copy.deepcopy(part).to(torch.float16).save_pretrained(folder, safe_serialization=True)
