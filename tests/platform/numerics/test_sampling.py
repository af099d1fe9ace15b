"""The straight line of sampling against the stock SDXL pipeline: every sampler, from the same generator."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.samplers import TCD_GAMMA, sampler_names, sampler_table, scheduler_for
from lorafleet.numerics.sampling import Noise, sample

BASES = [find_base(name) for name in ("toy-sdxl", "toy-playground")]
CASES = [(base, name) for base in BASES for name in sampler_names(base)]
PROMPT, STEPS, GUIDANCE = "a photo of a dog on a beach", 4, 3.0


@pytest.fixture(scope="module")
def loaded():
    return {base.name: LoadedBase.load(base) for base in BASES}


@pytest.fixture(scope="module")
def stock():
    pipes = {
        base.name: StableDiffusionXLPipeline.from_pretrained(base.path, dtype=torch.float32, use_safetensors=True)
        for base in BASES
    }
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def made(loaded, base, name, seeds):
    time_ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]]).repeat(len(seeds), 1)
    positive = loaded.prompts.encode(loaded.prompts.token_ids([PROMPT]))
    rows = type(positive)(positive.context.repeat(len(seeds), 1, 1), positive.pooled.repeat(len(seeds), 1))
    negative = loaded.unconditional(len(seeds))
    table = sampler_table(base, name, STEPS)
    z = sample(loaded.predict, table, Noise(seeds, (4, 8, 8)), rows, negative, time_ids, GUIDANCE)
    return loaded.decode(z).permute(0, 2, 3, 1).numpy()


@torch.no_grad()
@pytest.mark.parametrize(("base", "name"), CASES, ids=[f"{base.name}-{name}" for base, name in CASES])
def test_every_sampler_makes_the_stock_pipeline_s_picture_whatever_its_neighbours(loaded, stock, base, name):
    pipe = stock[base.name]
    pipe.scheduler = scheduler_for(name, base.scheduler)
    pictures = made(loaded[base.name], base, name, [3, 8])
    for seed, picture in zip([3, 8], pictures, strict=True):
        theirs = pipe(
            PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, eta=TCD_GAMMA if name == "tcd" else 0.0,
            generator=torch.Generator().manual_seed(seed), output_type="np",
        ).images[0]  # fmt: skip
        assert np.abs(picture - theirs).max() <= 1 / 255
    assert np.abs(pictures[0] - pictures[1]).max() > 20 / 255
