"""Half precision on its way through the engine: the same seed is the same noise, and sizes arrive as they were sent."""

import pytest
import torch

from lorafleet.bases import find_base
from lorafleet.loaded import DTYPES
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import GenerateRequest


@pytest.fixture(scope="module", params=["bf16", "fp16", "fp32"])
def precise(request):
    """(engine, dtype) of one precision."""
    engine = StepEngine(Pipeline.load(find_base("toy-sdxl"), precision=request.param), max_rows=2)
    yield engine, DTYPES[request.param]
    engine.close(drain=False)


def seen_by(module, engine, request):
    """What the module is called with while a request is answered, call by call."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    engine.submit(request).result(60)
    handle.remove()
    return seen


@pytest.mark.parametrize(("width", "height"), [(32, 32), (56, 40)])
def test_one_seed_is_one_noise_in_every_precision(precise, width, height):
    engine, dtype = precise
    draws = torch.Generator().manual_seed(5)
    drawn = [torch.randn(1, 4, height // 4, width // 4, generator=draws).to(dtype).float() for _ in range(3)]
    noise = engine.model.noise(width, height, 5)
    for number, expected in enumerate(drawn):
        assert torch.equal(noise.draw(number), expected)
    request = GenerateRequest("a", 5, steps=1, width=width, height=height, scheduler="ddim", guidance_scale=1.0)
    (first,) = seen_by(engine.model.loaded.unet.conv_in, engine, request)
    assert torch.equal(first.float(), drawn[0])  # DDIM starts from the noise itself


def test_sizes_arrive_unrounded(precise):
    """bf16 would make 340, 684 and 1368 of 341, 683 and 1365."""
    engine, _ = precise
    request = GenerateRequest("a", 1, steps=1, original_size=(683, 341), crop=(1365, 257), target_size=(8191, 513))
    (ids,) = seen_by(engine.model.loaded.unet.add_time_proj, engine, request)
    assert ids.tolist() == [341, 683, 1365, 257, 513, 8191] * 2
