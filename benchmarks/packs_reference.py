"""One LoRA trained as users do today: a process that imports, loads the base, trains one job in a plain loop and saves.

The structure of diffusers' `train_dreambooth_lora_sdxl.py` with latents encoded once, in fp32, and without accelerate,
logging and validation pictures, so that it is rather faster than the script. Imports nothing of lorafleet. Prints one
line of JSON; with `--hold` it then waits for a line on standard input, so that its memory can be looked at.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]
LEARNING_RATE, MAX_GRAD_NORM = 1e-4, 1.0
OPTIMIZER = {"lr": LEARNING_RATE, "betas": (0.9, 0.999), "weight_decay": 1e-4}


@dataclass
class Parts:
    """A base as the script has it."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    noise_scheduler: DDPMScheduler
    tokenizers: list[Any]
    encoders: list[nn.Module]


def load(base: Path) -> Parts:
    """The frozen parts, fp32."""
    parts = Parts(
        UNet2DConditionModel.from_pretrained(base, subfolder="unet"),
        AutoencoderKL.from_pretrained(base, subfolder="vae"),
        DDPMScheduler.from_pretrained(base, subfolder="scheduler"),
        [CLIPTokenizer.from_pretrained(base, subfolder=name) for name in ("tokenizer", "tokenizer_2")],
        [
            CLIPTextModel.from_pretrained(base, subfolder="text_encoder", dtype=torch.float32),
            CLIPTextModelWithProjection.from_pretrained(base, subfolder="text_encoder_2", dtype=torch.float32),
        ],
    )
    for module in (parts.unet, parts.vae, *parts.encoders):
        module.requires_grad_(False)
    return parts


@torch.no_grad()
def encoded_prompt(parts: Parts, prompt: str) -> tuple[Tensor, Tensor]:
    """Context [1, n, w1 + w2] and pooled [1, w] of the instance prompt, once for the whole training."""
    contexts, pooled = [], torch.empty(0)
    for tokenizer, encoder in zip(parts.tokenizers, parts.encoders, strict=True):
        limit = tokenizer.model_max_length
        ids = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt").input_ids
        output = encoder(ids, output_hidden_states=True)
        pooled = output[0]
        contexts.append(output.hidden_states[-2])
    return torch.cat(contexts, dim=-1), pooled


@torch.no_grad()
def encoded_images(parts: Parts, folder: Path, resolution: int) -> list[Any]:
    """The VAE's posterior of each picture (`--cache_latents` of the script's advanced sister)."""
    posteriors = []
    for path in sorted(folder.glob("*.png")):
        picture = Image.open(path).convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        posteriors.append(parts.vae.encode(pixels).latent_dist)
    return posteriors


class Batches:
    """Endless batches of one subject: noisy latents, timesteps, the noise, and the conditioning of its prompt."""

    def __init__(self, parts: Parts, folder: Path, prompt: str, resolution: int, batch: int) -> None:
        self.parts, self.batch = parts, batch
        self.posteriors = encoded_images(parts, folder, resolution)
        self.context, self.pooled = encoded_prompt(parts, prompt)
        self.time_ids = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]]).float().repeat(batch, 1)
        self.loader = DataLoader(range(len(self.posteriors)), batch_size=batch, shuffle=True, drop_last=True)
        self.waiting: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        self.waiting = self.waiting or list(self.loader)
        z = torch.cat([self.posteriors[i].sample() for i in self.waiting.pop().tolist()])
        z = z * self.parts.vae.config.scaling_factor
        noise = torch.randn_like(z)
        scheduler = self.parts.noise_scheduler
        t = torch.randint(0, scheduler.config.num_train_timesteps, (self.batch,))
        conditioning = {
            "encoder_hidden_states": self.context.repeat(self.batch, 1, 1),
            "added_cond_kwargs": {"time_ids": self.time_ids, "text_embeds": self.pooled.repeat(self.batch, 1)},
        }
        return scheduler.add_noise(z, noise, t), t, noise, conditioning


def lora(rank: int) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS)


def save(unet: nn.Module, out: Path, adapter: str = "default") -> None:
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet, adapter_name=adapter))
    StableDiffusionXLPipeline.save_lora_weights(out, unet_lora_layers=layers)


def train(arguments: argparse.Namespace) -> dict[str, float]:
    """The whole script; returns the seconds of its steps and its last loss."""
    parts = load(arguments.base)
    parts.unet.add_adapter(lora(arguments.rank))
    parameters = [parameter for parameter in parts.unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, **OPTIMIZER)
    schedule = get_scheduler("constant", optimizer)
    batches = Batches(parts, arguments.images, arguments.prompt, arguments.resolution, arguments.batch)
    parts.unet.train()
    started = time.perf_counter()
    for _ in range(arguments.steps):
        x, t, noise, conditioning = batches.next()
        F = parts.unet(x, t, **conditioning, return_dict=False)[0]
        loss = nn.functional.mse_loss(F.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        last = loss.item()  # the script shows it at each step
    seconds = time.perf_counter() - started
    save(parts.unet, arguments.out)
    return {"steps_seconds": seconds, "loss": last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "images", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("steps", "batch", "rank", "resolution", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--hold", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(train(arguments)), flush=True)
    if arguments.hold:
        input()


if __name__ == "__main__":
    main()
