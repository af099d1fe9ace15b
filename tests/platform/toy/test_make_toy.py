"""The command that makes the toy world's weights ends in time, with a decayed learning rate and ordinary pipelines."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFilter

from lorafleet.bases import find_base
from lorafleet.toy.judges import SEEN_SIDE, load_judge
from lorafleet.toy.render import render, widened
from lorafleet.toy.tokenizer import build_tokenizer
from lorafleet.toy.world import WORDS, random_identity, random_scene
from toy.assemble import KINDS, pipeline_of, save_fp16, standardise
from toy.data import SIDE, pictures, to_unit, trainable
from toy.denoiser import Base, Latents, edm_loss, epsilon_loss, train_base
from toy.time_bound import Limits, train
from toy.together import make_together
from toy.vae import encode, psnr, reconstructed, train_vae


@settings(deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 7), st.integers(8, 40), st.integers(8, 40))
def test_shapes_are_widened_as_pillow_widens_them(seed, by, width, height):
    values = np.random.default_rng(seed).random((height, width)) < 0.05
    mask = Image.fromarray(values.astype(np.uint8) * 255)
    theirs = mask.filter(ImageFilter.MaxFilter(2 * by + 1))
    assert ImageChops.difference(widened(mask, by), theirs).getbbox() is None


def test_the_judge_sees_a_large_picture_as_it_sees_a_small_one():
    rng, judge = random.Random(4), load_judge()
    large = np.stack([np.asarray(render(random_scene(random_identity(rng), rng), 2 * SEEN_SIDE)) for _ in range(6)])
    x = to_unit(torch.from_numpy(large).permute(0, 3, 1, 2))
    small = x.unflatten(2, (SEEN_SIDE, 2)).unflatten(4, (SEEN_SIDE, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(judge.embed(x), judge.embed(small))


@pytest.mark.parametrize("limits", [Limits(600, 60.0), Limits(10**9, 1.5)], ids=["steps", "clock"])
def test_a_run_cut_by_steps_or_by_the_clock_ends_with_a_decayed_rate(limits):
    """AdamW moves a parameter by about the learning rate, so the last moves say what it was."""
    model, seen = torch.nn.Linear(1, 1, bias=False), []

    def loss():
        seen.append(model.weight.item())
        return (model.weight - 1e3).square().sum() + 0 * torch.randn(()).sum()

    start = time.monotonic()
    average = train("line", model, loss, limits, 0.1)
    moves = np.abs(np.diff(seen))
    assert len(seen) <= limits.steps
    assert time.monotonic() - start < limits.seconds + 5
    assert 0.05 < moves.max() < 0.101
    assert moves[-len(moves) // 50 :].mean() < 0.02 * moves.max()
    assert abs(average.weight.item() - model.weight.item()) < 0.05 * abs(seen[-1] - seen[0])


def test_a_loss_that_is_not_finite_ends_the_run():
    model = torch.nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="at step 20"):
        train("line", model, lambda: (model.weight * float("nan")).sum(), Limits(100, 60.0), 0.1)


@pytest.fixture(scope="module")
def world():
    """A VAE after two steps, and its latents of a few pictures."""
    data = pictures("test", 12, workers=1)
    vae = train_vae(data.pixels, Limits(2, 60.0), batch=4)
    return data, vae, encode(vae, data.pixels)


def test_the_vae_leaves_eight_by_eight_latents(world):
    data, vae, latents = world
    assert data.pixels.shape == (12, 3, SIDE, SIDE)
    assert latents.shape == (12, 4, 8, 8)
    assert 0 < psnr(reconstructed(vae, data.pixels), data.pixels) < 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_base_is_an_ordinary_pipeline(world, kind, tmp_path):
    data, vae, latents = world
    tokenizers = (build_tokenizer(WORDS), build_tokenizer(WORDS, "!"))
    ids = [t(data.captions, padding="max_length", return_tensors="pt").input_ids for t in tokenizers]
    seen = trainable(data.labels)
    examples = Latents(standardise(kind, latents)[seen], (ids[0][seen], ids[1][seen]), data.time_ids[seen])
    loss = edm_loss if kind == "toy-playground" else epsilon_loss(torch.device("cpu"))
    base = train_base(kind, Base(tokenizers), examples, loss, Limits(2, 60.0), print, batch=4)
    save_fp16(pipeline_of(kind, base, vae, latents), tmp_path)

    found = find_base(str(tmp_path))
    assert (found.resolution, found.vae_factor) == (SIDE, 8)
    assert found.prediction == ("edm" if kind == "toy-playground" else "epsilon")
    pipe = StableDiffusionXLPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    [picture] = pipe("a red mug on the beach", num_inference_steps=2).images
    assert picture.size == (SIDE, SIDE)
    saved = dict(pipe.unet.named_parameters())
    assert all(torch.equal(value.half().float(), saved[name].float()) for name, value in base.unet.named_parameters())


def test_when_the_minutes_are_over_nothing_goes_on(tmp_path):
    start = time.monotonic()
    assert make_together(tmp_path, tmp_path, 0.02, ["--pictures", "8"]) == 1
    assert time.monotonic() - start < 10
    assert "the minutes are over; still running: vae, toy-sdxl, toy-playground" in (tmp_path / "log.txt").read_text()
