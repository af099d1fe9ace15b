"""Every knob of a request against the stock pipeline's own argument: sampler, rescale, clip skip, time ids."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from lorafleet.numerics.samplers import TCD_GAMMA, scheduler_for
from lorafleet_serve.engine.requests import GenerateRequest

BAR = 2


def requests(engine):
    """One for each sampler of the base, no two with the same knobs."""
    return [
        GenerateRequest(
            "a photo of a dog", seed=i, steps=5, scheduler=name, negative_prompt=None if i % 2 else "blurry",
            guidance_rescale=(0.0, 0.6, 1.0)[i % 3], clip_skip=(None, 1, 2)[(i + 1) % 3], crop=(3 * i, i),
            original_size=(640, 48) if i % 2 else None, target_size=None if i % 2 else (40, 24),
        )
        for i, name in enumerate(engine.model.samplers)
    ]  # fmt: skip


def turned(size):
    return None if size is None else size[::-1]  # diffusers has the height first


@pytest.fixture(scope="module")
def stock(engine):
    path = engine.model.base.path
    pipe = StableDiffusionXLPipeline.from_pretrained(path, dtype=torch.float32, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_every_knob_turns_what_it_turns_in_diffusers(engine, stock):
    asked = requests(engine)
    for request, future in zip(asked, [engine.submit(request) for request in asked], strict=True):
        stock.scheduler = scheduler_for(request.scheduler, engine.model.base.scheduler)
        theirs = stock(
            request.prompt, negative_prompt=request.negative_prompt, num_inference_steps=request.steps,
            guidance_scale=engine.model.base.default_guidance, guidance_rescale=request.guidance_rescale,
            clip_skip=request.clip_skip, eta=TCD_GAMMA if request.scheduler == "tcd" else 0.0,
            original_size=turned(request.original_size), crops_coords_top_left=request.crop,
            target_size=turned(request.target_size), generator=torch.Generator().manual_seed(request.seed),
        ).images[0]  # fmt: skip
        difference = np.asarray(future.result(60).image, dtype=int) - np.asarray(theirs, dtype=int)
        assert np.abs(difference).max() <= BAR, request
