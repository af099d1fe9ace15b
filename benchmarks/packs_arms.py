"""The arms of `packs.py`: the same jobs by separate processes, one after another, in one pack, and by PEFT alone.

All arms do the same arithmetic: one prompt encoded once, latents encoded once, AdamW, gradients clipped at 1, the loss
read at each step, one LoRA file saved for each job.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from packs_reference import LEARNING_RATE, MAX_GRAD_NORM, OPTIMIZER, Batches, Parts, lora, save
from peft import get_peft_model
from torch import nn

from lorafleet.bases import Base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Validation
from lorafleet.loaded import LoadedBase
from lorafleet.targets import UNET
from lorafleet.toy.subjects import write_subjects
from lorafleet_jobs.intake.recipes import resolve_recipe
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train.pack import train_step
from lorafleet_jobs.train.training import Training

REFERENCE = Path(__file__).with_name("packs_reference.py")
NOUN = "mug"
PROMPT = f"a photo of TOK {NOUN}"


@dataclass(frozen=True)
class Taken:
    """Seconds of all jobs together."""

    around: float
    """All but the steps: reading, encoding, setting up, saving; for a process its start and its loading too."""
    steps: float

    @property
    def total(self) -> float:
        return self.around + self.steps

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.around + other.around, self.steps + other.steps)

    def __mul__(self, times: float) -> Taken:
        return Taken(self.around * times, self.steps * times)


def jobs(folder: Path, base: str, count: int, pictures: int = 6, **recipe: Any) -> list[JobSpec]:
    """Jobs of one recipe, each with a subject and a seed of its own; no learned tokens, one prompt."""
    specs = []
    for i, subject in enumerate(write_subjects(folder, [NOUN] * count, pictures)):
        made = resolve_recipe(
            {"pivotal": None, "optimizer": "adamw", "learning_rate": LEARNING_RATE, "lr_scheduler": "constant",
             "max_grad_norm": MAX_GRAD_NORM, "seed": i} | recipe, toy=True,
        )  # fmt: skip
        images = tuple(
            ImageSpec(file=p.name, caption=None, sha256=sha256_of(p)) for p in sorted(subject.folder.glob("*.png"))
        )
        specs.append(
            JobSpec(
                id=f"{i:016x}",
                submission="packs",
                subject=subject.name,
                adapter=subject.name,
                base=base,
                folder=str(subject.folder),
                images=images,
                class_noun=NOUN,
                instance_prompt=PROMPT,
                recipe=made,
                steps=made.step_count(len(images)),
                validation=Validation(),
                dataset_fingerprint="",
            )
        )
    return specs


def reference_command(spec: JobSpec, base: Base, out: Path, threads: int, *more: str) -> list[str]:
    """How a process of arm (a) is started."""
    recipe = spec.recipe
    values = {
        "base": base.path, "images": spec.folder, "out": out, "steps": spec.steps, "batch": recipe.batch_size,
        "rank": recipe.rank, "resolution": base.resolution, "threads": threads, "prompt": spec.instance_prompt,
    }  # fmt: skip
    return [sys.executable, str(REFERENCE), *(w for k, v in values.items() for w in (f"--{k}", str(v))), *more]


def environment(threads: int) -> dict[str, str]:
    """Threads are limited before torch is imported; nothing is looked up on a network."""
    return os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def one_process(spec: JobSpec, base: Base, out: Path, threads: int) -> Taken:
    """(a) One job from the start of its process to its end."""
    started = time.perf_counter()
    command = reference_command(spec, base, out, threads)
    done = subprocess.run(command, env=environment(threads), check=True, stdout=subprocess.PIPE, text=True)
    steps = json.loads(done.stdout.splitlines()[-1])["steps_seconds"]
    return Taken(time.perf_counter() - started - steps, steps)


def pack(specs: Sequence[JobSpec], warm: LoadedBase, out: Path) -> Taken:
    """(c) All jobs in one pack, on a base that is loaded."""
    started = time.perf_counter()
    trainings = [Training.prepare(spec, warm) for spec in specs]
    stepping = time.perf_counter()
    for step in range(1, specs[0].steps + 1):
        for outcome in train_step([(training, step) for training in trainings]):
            if isinstance(outcome, Exception):
                raise outcome
    ended = time.perf_counter()
    for training in trainings:
        factors = training.adapter().parts[UNET]
        layers = {f"{n}.lora_{k}.weight": t for n, f in factors.items() for k, t in (("A", f.A), ("B", f.B))}
        StableDiffusionXLPipeline.save_lora_weights(out / training.spec.id, unet_lora_layers=layers)
    return Taken(time.perf_counter() - ended + stepping - started, ended - stepping)


def one_after_another(specs: Sequence[JobSpec], warm: LoadedBase, out: Path) -> Taken:
    """(b) Packs of one, on a base that is loaded."""
    return sum((pack([spec], warm, out) for spec in specs), Taken(0, 0))


def plain_peft(specs: Sequence[JobSpec], parts: Parts, resolution: int, out: Path) -> Taken:
    """(d) PEFT's mixed batch, as near to training as it comes, on a base that is loaded.

    PEFT refuses `adapter_names` in training mode ("Cannot pass `adapter_names` when the model is in training mode"), so
    the model stays in eval mode, which for a UNet without dropout is the same arithmetic, and gradients flow. Adapters
    that are not active have `requires_grad` off; it is put on by hand.
    """
    unet, recipe = copy.deepcopy(parts.unet), specs[0].recipe
    started = time.perf_counter()
    names = [spec.id for spec in specs]
    model = get_peft_model(unet, lora(recipe.rank), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora(recipe.rank))
    model.requires_grad_(False)
    own = [[p for n, p in model.named_parameters() if f".{name}." in n] for name in names]
    for parameters in own:
        for parameter in parameters:
            parameter.requires_grad_(True)
    optimizers = [torch.optim.AdamW(parameters, **OPTIMIZER) for parameters in own]
    batches = [Batches(parts, Path(s.folder), s.instance_prompt, resolution, recipe.batch_size) for s in specs]
    model.eval()
    rows = [name for name in names for _ in range(recipe.batch_size)]
    stepping = time.perf_counter()
    for _ in range(specs[0].steps):
        _peft_step(model, own, optimizers, batches, rows)
    ended = time.perf_counter()
    for name in names:
        save(unet, out / name, name)
    return Taken(time.perf_counter() - ended + stepping - started, ended - stepping)


def _peft_step(
    model: nn.Module, own: list[list[Any]], optimizers: list[Any], batches: list[Batches], rows: list[str]
) -> None:
    asked = [each.next() for each in batches]
    F = model(
        torch.cat([x for x, _, _, _ in asked]),
        torch.cat([t for _, t, _, _ in asked]),
        encoder_hidden_states=torch.cat([c["encoder_hidden_states"] for *_, c in asked]),
        added_cond_kwargs={
            key: torch.cat([c["added_cond_kwargs"][key] for *_, c in asked]) for key in ("time_ids", "text_embeds")
        },
        return_dict=False,
        adapter_names=rows,
    )[0]
    parts = zip(F.chunk(len(asked)), asked, strict=True)
    losses = torch.stack([nn.functional.mse_loss(part.float(), noise) for part, (_, _, noise, _) in parts])
    losses.sum().backward()
    for parameters, optimizer in zip(own, optimizers, strict=True):
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
    losses.tolist()
