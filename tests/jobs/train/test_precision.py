"""What stays fp32 on a base in half precision: its output F, and with it the loss and what is learned from it."""

from __future__ import annotations

import random

import pytest
import torch

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.text import Conditioning
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train import base_step, pack
from lorafleet_jobs.train.training import Training


@pytest.fixture(scope="module")
def half():
    return LoadedBase.load(find_base("toy-sdxl"), precision="bf16")


def test_the_bases_output_is_fp32_and_in_fp64_stays_so(half):
    def output(loaded):
        width = loaded.unet.config.cross_attention_dim
        pooled = loaded.prompts.encoders[1].config.projection_dim
        told = Conditioning(torch.zeros(1, 77, width), torch.zeros(1, pooled))
        with torch.no_grad():
            return loaded.predict(torch.zeros(1, 4, 8, 8), torch.tensor([10]), told, torch.zeros(1, 6)).dtype

    assert output(half) == torch.float32
    double = LoadedBase.load(find_base("toy-sdxl"))
    double.unet.double()
    assert output(double) == torch.float64


def test_the_loss_is_worked_out_in_fp32(half, tmp_path, monkeypatch):
    render(random_scene(unseen_identity(0, "dog"), random.Random(3)), 32).save(tmp_path / "0.png")
    image = ImageSpec(file="0.png", caption=None, sha256=sha256_of(tmp_path / "0.png"))
    spec = JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base="toy-sdxl", folder=str(tmp_path),
        images=(image,), class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(rank=2), steps=1,
        validation=Validation(), dataset_fingerprint="",
    )  # fmt: skip
    seen, loss = [], base_step.weighted_squared_error

    def watched(F, F_target, w, mask):
        value = loss(F, F_target, w, mask)
        seen.extend([F.dtype, F_target.dtype, w.dtype, value.dtype])
        return value

    monkeypatch.setattr(base_step, "weighted_squared_error", watched)
    training = Training.prepare(spec, half)
    pack.train_step_alone(training, 1)
    assert seen == [torch.float32] * 4
    assert training.micro_batch(0).noisy.x.dtype == torch.float32
