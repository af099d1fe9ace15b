"""Whether a GPU computes what a CPU does: losses of seven recipes, pictures of the engine, exact mode; on toy bases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import packs_arms as arms
import torch
from diffusers import StableDiffusionXLPipeline
from gpu_device import Place
from gpu_report import Check, Found, Task
from serve_traffic import random_bundles

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import WEIGHTS
from lorafleet.bundle.folder_registry import version_of
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import CapturedCalls
from lorafleet.targets import UNET
from lorafleet_jobs.train.batching import DynamicBatching, StaticBatching
from lorafleet_jobs.train.pack import train_step
from lorafleet_jobs.train.training import Training
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest

RECIPES: tuple[dict[str, Any], ...] = (
    {}, {"dora": True}, {"pivotal": {"tokens": 2}, "optimizer": "prodigy", "learning_rate": 1.0},
    {"text_encoder_lora": {}}, {"min_snr_gamma": 5.0, "noise_offset": 0.1, "rank": 4},
    {"prior": {"mode": "predict"}}, {"targets": "all-linear", "gradient_checkpointing": True},
)  # fmt: skip
"""None with dropout: a device draws its masks by its own generator."""
BASE = "toy-playground"
STEPS, BARS = 12, {"fp32": 1e-3, "bf16": 1e-2}
LEVELS = 2.0
"""Of 255: how far pictures may differ that should be the same but for rounding."""


def tasks(place: Place) -> list[Task]:
    """In the order of their worth."""
    return [
        Task("losses", 45, lambda: losses(place)),
        Task("pictures", 25, lambda: pictures(place)),
        Task("exact pictures", 15, lambda: exact_pictures(place)),
    ]


def losses(place: Place) -> list[Found]:
    """The largest relative difference from the CPU's losses over some steps, of jobs alone and in one pack."""
    right = traces(place, "cpu", "fp32", DynamicBatching(), together=False)
    found: list[Found] = []
    for precision in ("fp32",) if place.device == "cpu" else BARS:
        for together in (False, True):
            calls = CapturedCalls(torch.device(place.device))
            ours = traces(place, place.device, precision, StaticBatching(calls, rank=16), together)
            how = f"{len(RECIPES)} jobs {'in one pack' if together else 'alone'}, recorded steps"
            off = [_off(own, other) for own, other in zip(ours, right, strict=True)]
            worst = RECIPES[off.index(max(off))]
            found.append(
                Check(f"losses in {precision}, {how}; furthest from a CPU's: {worst}", max(off), BARS[precision])
            )
    return found


def traces(place: Place, device: str, precision: str, batching: DynamicBatching, together: bool) -> list[list[float]]:
    """Each recipe's losses."""
    base = LoadedBase.load(find_base(BASE), device, precision)
    trainings = [
        Training.prepare(arms.jobs(place.folder / f"recipe-{i}", BASE, 1, 6, steps=STEPS, **recipe)[0], base)
        for i, recipe in enumerate(RECIPES)
    ]
    steps = 3 if place.dry else STEPS
    if together:
        rows = [train_step([(each, step) for each in trainings], batching) for step in range(1, steps + 1)]
        return [_numbers(row[i] for row in rows) for i in range(len(trainings))]
    return [_numbers(train_step([(each, step)], batching)[0] for step in range(1, steps + 1)) for each in trainings]


def _numbers(outcomes: Any) -> list[float]:
    numbers = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        numbers.append(outcome)
    return numbers


def _off(ours: Sequence[float], right: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, right, strict=False))


def asked(bundles: Sequence[Path]) -> list[GenerateRequest]:
    """Requests of many kinds: with another adapter each, without, unguided, of different step counts."""
    return [
        GenerateRequest(
            f"a photo of a mug {i}", i, steps=4 + i, guidance_scale=1.0 if i == 5 else 5.0,
            adapters=() if i % 4 == 3 else (AdapterUse(version_of(bundles[i % len(bundles)])),),
        )
        for i in range(8)
    ]  # fmt: skip


def pictures(place: Place) -> list[Found]:
    """The engine's pictures made together by recorded steps, against plain steps, and against stock diffusers."""
    model = Pipeline.load(find_base(BASE), place.device, "fp32")
    bundles = random_bundles(place.folder / "adapters", model.base, model.loaded.lora[UNET].shapes(), 4)
    requests = asked(bundles)
    recorded, plain = made(model, requests, capture=True), made(model, requests, capture=False)
    stock = [diffusers_picture(place, request) for request in requests]
    against = {"plain steps": plain, "stock diffusers": stock}
    return [
        Check(f"recorded steps against {name}", most_levels(recorded, other), LEVELS, "of 255 ")
        for name, other in against.items()
    ]


def made(model: Pipeline, requests: Sequence[GenerateRequest], **options: Any) -> list[np.ndarray]:
    """All requests at once, twice, so that steps are replayed; the second pictures."""
    engine = StepEngine(model, max_rows=8, **options)
    try:
        for _ in range(2):
            futures = [engine.submit(request) for request in requests]
            images = [np.asarray(future.result().image).astype(int) for future in futures]
        return images
    finally:
        engine.close()


def diffusers_picture(place: Place, request: GenerateRequest) -> np.ndarray:
    """The same picture from a stock pipeline on the same device."""
    pipe: Any = StableDiffusionXLPipeline.from_pretrained(
        find_base(BASE).path, dtype=torch.float32, use_safetensors=True
    )
    pipe.to(place.device).set_progress_bar_config(disable=True)
    for use in request.adapters:
        pipe.load_lora_weights(Path(use.adapter.path), weight_name=WEIGHTS)
    image = pipe(
        prompt=request.prompt, num_inference_steps=request.steps, guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]  # fmt: skip
    return np.asarray(image).astype(int)


def most_levels(ours: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """The largest difference of any channel of any pixel, of 255."""
    return float(max(np.abs(a - b).max() for a, b in zip(ours, right, strict=True)))


def exact_pictures(place: Place) -> list[Found]:
    """In exact mode pictures made together have the bits of those made alone."""
    model = Pipeline.load(find_base(BASE), place.device, "fp32" if place.device == "cpu" else "bf16")
    bundles = random_bundles(place.folder / "exact", model.base, model.loaded.lora[UNET].shapes(), 4)
    engine = StepEngine(model, max_rows=8, exact=True)
    try:
        requests = asked(bundles)
        alone = [engine.submit(request).result().image.tobytes() for request in requests]
        futures = [engine.submit(request) for request in reversed(requests)]
        together = [future.result().image.tobytes() for future in reversed(futures)]
    finally:
        engine.close()
    other = sum(a != b for a, b in zip(alone, together, strict=True))
    return [Check(f"exact: pictures of {len(requests)} with other bits together than alone", other, 0)]
