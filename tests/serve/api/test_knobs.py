"""Every option against the stock pipeline's own argument, and on its way from HTTP and the command line."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from lorafleet.numerics.samplers import TCD_GAMMA, scheduler_for
from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.api.service import to_engine
from lorafleet_serve.engine.requests import GenerateRequest, ImageOptions, with_defaults
from lorafleet_serve.serve_commands import generate

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


OPTIONS = {
    "prompt": "a dog", "negative_prompt": "blurry", "steps": 3, "guidance_scale": 2.5, "guidance_rescale": 0.5,
    "clip_skip": 1, "scheduler": "edm-euler", "crop": (3, 4),
}  # fmt: skip


def test_an_option_is_written_once_and_reaches_the_engine_and_the_png(playground):
    base, samplers = playground.model.base, playground.model.samplers
    assert set(OPTIONS) == set(ImageOptions.model_fields), "give the new option a value here that is not its default"
    settings = with_defaults(to_engine(ImagesRequest(**OPTIONS), (), 5), base, samplers)
    assert {name: getattr(settings.request, name) for name in OPTIONS} == OPTIONS
    assert settings.options() == {name: value for name, value in OPTIONS.items() if name != "crop"} | {"seed": 5}
    assert settings.time_ids()[2:4] == OPTIONS["crop"]
    assert set(OPTIONS) - {"crop"} <= set(inspect.signature(generate).parameters)


def test_the_documentation_shows_the_engine_s_bounds():
    properties = ImagesRequest.model_json_schema()["properties"]
    number, nothing = properties["steps"]["anyOf"]
    assert (number["minimum"], number["maximum"], nothing) == (1, 100, {"type": "null"})
    assert (properties["guidance_rescale"]["minimum"], properties["guidance_rescale"]["maximum"]) == (0, 1)
    assert properties["prompt"]["maxLength"] == 2000
    assert all("description" in properties[name] for name in OPTIONS)
