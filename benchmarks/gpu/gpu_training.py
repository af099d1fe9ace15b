"""Training steps at SDXL's size: one job and packs, and beside them plain diffusers with PEFT."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import packs_arms as arms
import torch
from diffusers import UNet2DConditionModel
from gpu_device import Place
from gpu_report import Cell, Found, Task
from peft import LoraConfig
from prodigyopt import Prodigy

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import CapturedCalls
from lorafleet_jobs.train.batching import DynamicBatching, StaticBatching
from lorafleet_jobs.train.pack import train_step
from lorafleet_jobs.train.training import Training
from sdxl_random import UNET, _fill

PICTURES, RANK = 2, 16
PIVOTAL: dict[str, Any] = {"pivotal": {"tokens": 2}, "optimizer": "prodigy", "learning_rate": 1.0}
SEEDS: dict[str, Any] = {**PIVOTAL, "rank": 8, "batch_size": 3, "min_snr_gamma": 5.0, "gradient_checkpointing": True}
"""What the usual DreamBooth script is asked for on a 12 GB card."""


class TrainingCells:
    """Steps of lorafleet on one base."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._base: LoadedBase | None = None

    @property
    def base(self) -> LoadedBase:
        """Loaded once."""
        if self._base is None:
            self._base = self.place.base()
        return self._base

    def tasks(self) -> list[Task]:
        """In the order of their worth."""
        kept = {"gradient_checkpointing": True}
        return [
            Task("one job", 12, lambda: self.pack("one job", (1,))),
            Task("packs", 25, lambda: self.pack("pack", (4, 8))),
            Task("one job, pivotal tuning", 15, lambda: self.pack("pivotal, Prodigy", (1, 4), **PIVOTAL)),
            Task("seeds' command", 12, lambda: self.pack("rank 8, batch 3, pivotal", (1,), **SEEDS)),
            Task("packs, checkpointing", 30, lambda: self.pack("checkpointing", (1, 8), **kept)),
            Task("packs, DoRA", 15, lambda: self.pack("DoRA", (1, 4), dora=True)),
            Task("packs, 512 px", 15, lambda: self.pack("512 px", (1, 8), 512)),
            Task("plain steps", 10, lambda: self.pack("one job, not recorded", (1,), capture=False)),
        ]

    def pack(
        self, what: str, sizes: tuple[int, ...], pixels: int = 1024, capture: bool = True, **recipe: Any
    ) -> list[Found]:
        """Packs of these sizes, one after another."""
        place = self.place
        wanted = {"rank": RANK, "batch_size": 1, "gradient_checkpointing": False, "dora": False, **recipe}
        precision = "fp32" if place.dry else "bf16"
        specs = arms.jobs(
            place.folder / what.replace(" ", "-"), self.base.base.name, max(sizes), PICTURES, steps=10_000,
            resolution=place.pixels(pixels), precision=precision, **wanted,
        )  # fmt: skip
        trainings = [Training.prepare(spec, self.base) for spec in specs]
        return [self._cell(f"{what} x {size}", trainings[:size], pixels, capture) for size in sizes]

    def _cell(self, what: str, trainings: list[Training], pixels: int, capture: bool) -> Cell:
        place, recipe, number = self.place, trainings[0].spec.recipe, 0
        gc.collect()
        place.forget_peak()
        batching = StaticBatching(CapturedCalls(self.base.device), RANK) if capture else DynamicBatching()

        def step() -> None:
            nonlocal number
            number += 1
            for outcome in train_step([(training, number) for training in trainings], batching):
                if isinstance(outcome, Exception):
                    raise outcome

        first = place.seconds(step)
        ms, syncs = place.milliseconds(step), place.syncs(step)
        rows = len(trainings) * recipe.batch_size
        floor = place.floor_ms(place.pixels(pixels), rows * (3 if recipe.gradient_checkpointing else 2))
        return Cell(what, place.pixels(pixels), rows, ms, first, floor, place.peak_gib(), syncs)


class PeerCells:
    """Steps as the usual scripts take them: diffusers' UNet, PEFT's LoRA in fp32, autocast to bf16, fused AdamW."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def tasks(self) -> list[Task]:
        """In the order of their worth."""
        return [
            Task("diffusers + PEFT", 12, lambda: [self.cell("diffusers + PEFT", 1)]),
            Task("diffusers + PEFT, seeds' command", 15, lambda: [self.seeds()]),
            Task("diffusers + PEFT, batch 4", 12, lambda: [self.cell("diffusers + PEFT, batch 4", 4)]),
            Task("diffusers + PEFT, 512 px", 12, lambda: [self.cell("diffusers + PEFT", 1, 512)]),
        ]

    def seeds(self) -> Cell:
        """Without its text encoders, so that the comparison favours the peer."""
        return self.cell("diffusers + PEFT, rank 8, batch 3", 3, rank=8, checkpointing=True, optimizer=_prodigy)

    def cell(
        self,
        what: str,
        rows: int,
        pixels: int = 1024,
        rank: int = RANK,
        checkpointing: bool = False,
        optimizer: Callable[[list[Any]], torch.optim.Optimizer] | None = None,
    ) -> Cell:
        """Steps of one adapter."""
        place, px = self.place, self.place.pixels(pixels)
        place.forget_peak()
        unet = self._unet(rank, checkpointing)
        parameters = [each for each in unet.parameters() if each.requires_grad]
        made = (optimizer or _adamw)(parameters)
        side = px // 8
        x = torch.randn(rows, 4, side, side, device=place.device)
        t = torch.randint(0, 1000, (rows,), device=place.device)
        like = {"device": place.device, "dtype": unet.dtype}
        context = torch.randn(rows, 77, int(unet.config.cross_attention_dim), **like)
        pooled = int(unet.config.projection_class_embeddings_input_dim) - 6 * int(unet.config.addition_time_embed_dim)
        ids = torch.tensor([[px, px, 0, 0, px, px]] * rows, **like)
        extra = {"text_embeds": torch.randn(rows, pooled, **like), "time_ids": ids}

        def step() -> None:
            with torch.autocast(place.device, torch.bfloat16, enabled=place.device == "cuda"):
                F = unet(x.to(unet.dtype), t, context, added_cond_kwargs=extra, return_dict=False)[0]
            torch.nn.functional.mse_loss(F.float(), x).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            made.step()
            made.zero_grad(set_to_none=True)

        first = place.seconds(step)
        ms, floor = place.milliseconds(step), place.floor_ms(px, rows * (3 if checkpointing else 2))
        return Cell(what, px, rows, ms, first, floor, place.peak_gib(), place.syncs(step))

    def _unet(self, rank: int, checkpointing: bool) -> Any:
        device = self.place.device
        if self.place.dry:
            unet: Any = UNet2DConditionModel.from_pretrained(_toy_path(), subfolder="unet", dtype=torch.float32)
        else:
            with torch.device("meta"):
                unet = UNet2DConditionModel(**UNET)
            unet = _fill(unet.to(torch.bfloat16).to_empty(device=device), torch.Generator(device).manual_seed(0))
        unet.requires_grad_(False).to(device)
        attention = ["to_k", "to_q", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=attention))
        for parameter in unet.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
        if checkpointing:
            unet.enable_gradient_checkpointing()
        return unet.train()


def _toy_path() -> Any:
    from lorafleet.bases import find_base

    return find_base("toy-sdxl").path


def _adamw(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, fused=parameters[0].device.type == "cuda")


def _prodigy(parameters: list[Any]) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = Prodigy(
        parameters, lr=1.0, betas=(0.9, 0.99), weight_decay=0.01, use_bias_correction=True, safeguard_warmup=True
    )
    return optimizer
