"""The same engine on the full SDXL architecture: two adapters in one batch, two steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lorafleet.bundle.bundle import WEIGHTS, AdapterCard, Trigger, write_bundle
from lorafleet.bundle.folder_registry import version_of
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest
from sdxl_random import sdxl_random

SIDE, RANK = 256, 4


def bundle(folder, name, loaded, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, (n_in, n_out) in loaded.lora["unet"].linear.items():
        tensors[f"unet.{layer}.lora.down.weight"] = torch.randn(RANK, n_in, generator=generator) / RANK
        tensors[f"unet.{layer}.lora.up.weight"] = torch.randn(n_out, RANK, generator=generator) * 0.05
    card = AdapterCard(
        name=name, base="sdxl-random", base_fingerprint=loaded.base.fingerprint, prediction="epsilon", rank=RANK,
        alpha=float(RANK), targets=("to_q", "to_k", "to_v", "to_out.0"),
        triggers=(Trigger(trigger=f"<{name}>", abstraction="TOK", text="TOK"),), class_noun="dog",
        instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="", images=1, steps=1, licence="none",
        job_id=name, lorafleet_version="0",
    )  # fmt: skip
    write_bundle(folder / name, card, {WEIGHTS: save(tensors)})
    return version_of(folder / name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_adapters_and_the_base_share_two_steps_on_full_sdxl(tmp_path):
    loaded = sdxl_random(tmp_path / "base")
    adapters = [bundle(tmp_path / "bundles", name, loaded, seed) for seed, name in enumerate(("rex", "mia"))]
    engine = StepEngine(Pipeline(loaded))
    try:
        requests = [
            GenerateRequest(
                prompt=f"a photo of <{adapter.name}> dog" if adapter else "a photo of a dog", seed=0, steps=2,
                width=SIDE, height=SIDE, adapters=(AdapterUse(adapter, 1.0),) if adapter else (),
            )
            for adapter in (*adapters, None)
        ]  # fmt: skip
        futures = [engine.submit(request) for request in requests]
        pictures = [np.asarray(future.result(timeout=1500).image) for future in futures]
    finally:
        engine.close()
    assert all(picture.shape == (SIDE, SIDE, 3) for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
