"""The toy size is a choice: the same trainer and the same engine on the full SDXL architecture."""

from __future__ import annotations

import math
import random

import pytest
import torch
from null_tracker import NullTracker
from packs_here import train_job

from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from sdxl_random import UNET_PARAMETERS, sdxl_random

SIDE = 256


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_training_steps_on_full_sdxl(tmp_path):
    torch.manual_seed(0)
    loaded = sdxl_random(tmp_path / "base")
    assert sum(p.numel() for p in loaded.unet.parameters()) == UNET_PARAMETERS
    rng = random.Random(0)
    for i in range(2):
        render(random_scene(unseen_identity(0, "dog"), rng), SIDE).save(tmp_path / f"{i}.png")
    spec = JobSpec(
        id="0" * 16, submission="full", subject="rex", adapter="rex", base="sdxl-random", folder=str(tmp_path),
        images=tuple(ImageSpec(file=p.name, caption=None, sha256=sha256_of(p)) for p in sorted(tmp_path.glob("*.png"))),
        class_noun="dog", instance_prompt="a photo of TOK dog",
        recipe=Recipe(rank=8, resolution=SIDE, gradient_checkpointing=True, precision="bf16"),
        steps=2, validation=Validation(steps=1), dataset_fingerprint="",
    )  # fmt: skip
    losses = []
    bundle = train_job(spec, loaded, tmp_path / "bundle", NullTracker(), lambda step, loss: losses.append(loss))

    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    weights = bundle.weights()
    assert len(weights) == 2 * 560  # to_q, to_k, to_v, to_out of 140 attentions
    assert sum(t.numel() for t in weights.values()) == 1_451_520 * 8
    assert any(t.abs().max() > 0 for name, t in weights.items() if "lora_B" in name or "lora.up" in name)
    assert {name: tuple(t.shape) for name, t in bundle.embeddings().items()} == {
        "clip_l": (2, 768),
        "clip_g": (2, 1280),
    }
