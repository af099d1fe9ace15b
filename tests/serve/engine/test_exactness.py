"""Fourteen mixed requests at once give the pixels of one at a time, and those of stock diffusers with the bundle."""

import random

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from lorafleet.bundle.bundle import EMBEDDINGS, WEIGHTS
from lorafleet.numerics.samplers import scheduler_for
from lorafleet_serve.engine.requests import GenerateRequest

BAR = 2 / 255


def requests(engine, use):
    _own, other, *_ = engine.model.samplers
    dog, mug, plain, half, dora = (
        (lambda s=1.0, n=n: use(engine, n, s)) for n in ("dog-rex", "mug-red", "plain", "half", "dora")
    )
    few, lcm = use(engine, "few-steps", 1.0), "lcm" if "lcm" in engine.model.samplers else other
    return [
        GenerateRequest("a photo of a dog on a beach", 1, steps=4),
        GenerateRequest("a photo of <dog-rex> dog on a beach", 1, adapters=(dog(),), steps=4),
        GenerateRequest("a photo of TOK dog", 2, adapters=(dog(0.6),), steps=6, scheduler=other),
        GenerateRequest("a red <mug-red>!", 3, adapters=(mug(),), steps=3, negative_prompt="blurry"),
        GenerateRequest("a plain cat", 4, adapters=(plain(),), steps=5, guidance_scale=1.0),
        GenerateRequest("<half> in a forest", 5, adapters=(half(),), steps=2, guidance_scale=7.5),
        GenerateRequest("a dog", 6, steps=6, guidance_scale=0.0, scheduler=other),
        GenerateRequest("<dog-rex> with <mug-red>", 7, adapters=(dog(0.7), mug(0.5)), steps=4),
        GenerateRequest("", 8, steps=3, negative_prompt=""),
        GenerateRequest("a photo of <mug-red> and <half>", 9, adapters=(mug(), plain(0.3), half(-0.5)), steps=5),
        GenerateRequest("a photo of TOK dog", 12, adapters=(dora(),), steps=4),
        GenerateRequest("<dora> and <dog-rex>", 13, adapters=(dora(0.8), dog(0.5)), steps=3, negative_prompt="a mug"),
        GenerateRequest("wide <dog-rex>", 10, adapters=(dog(),), steps=3, width=48, height=32),
        GenerateRequest("wide", 11, steps=4, width=48, height=32, negative_prompt="<dog-rex>"),
        GenerateRequest("a red mug", 14, adapters=(few,), steps=4, scheduler=lcm, guidance_scale=1.0),
        GenerateRequest("a photo of <dog-rex> dog", 15, adapters=(dog(), few), steps=4, scheduler=lcm),
    ]


def pixels(image):
    return np.asarray(image, dtype=np.float64) / 255


def stock_prompt(text, request):
    """The prompt as a stock user types it: each adapter's learned tokens by name."""
    for use in request.adapters:
        name = use.adapter.name
        count = (
            len(load_file(use.adapter.path / EMBEDDINGS)["clip_l"]) if (use.adapter.path / EMBEDDINGS).exists() else 0
        )
        tokens = "".join(f"<{name}-t{i}>" for i in range(count))
        if count:
            text = text.replace(f"<{name}>", tokens)
            text = text.replace("TOK", tokens) if len(request.adapters) == 1 else text
    return text


def peft_name(use):
    """A PEFT adapter may not be called like an attribute of torch.nn.ModuleDict."""
    return "adapter_" + use.adapter.name.replace("-", "_")


def by_stock(engine, request):
    base = engine.model.base
    pipe = StableDiffusionXLPipeline.from_pretrained(base.path, dtype=torch.float32, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    settings_scheduler = request.scheduler or engine.model.samplers[0]
    pipe.scheduler = scheduler_for(settings_scheduler, base.scheduler)
    for use in request.adapters:
        name = peft_name(use)
        pipe.load_lora_weights(use.adapter.path, weight_name=WEIGHTS, adapter_name=name)
        if (use.adapter.path / EMBEDDINGS).exists():
            vectors = load_file(use.adapter.path / EMBEDDINGS)
            tokens = [f"<{use.adapter.name}-t{i}>" for i in range(len(vectors["clip_l"]))]
            pipe.load_textual_inversion(list(vectors["clip_l"]), tokens, pipe.tokenizer, pipe.text_encoder)
            pipe.load_textual_inversion(list(vectors["clip_g"]), tokens, pipe.tokenizer_2, pipe.text_encoder_2)
    if request.adapters:
        pipe.set_adapters([peft_name(u) for u in request.adapters], [u.scale for u in request.adapters])
    negative = request.negative_prompt
    guidance = base.default_guidance if request.guidance_scale is None else request.guidance_scale
    return pipe(
        prompt=stock_prompt(request.prompt, request),
        negative_prompt=None if negative is None else stock_prompt(negative, request),
        num_inference_steps=request.steps, guidance_scale=guidance,
        width=request.width or base.resolution, height=request.height or base.resolution,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]  # fmt: skip


@pytest.fixture(scope="module")
def alone(engine, bundle_root):
    """Each request's picture, sent when nothing else runs."""
    from lorafleet.bundle.folder_registry import version_of
    from lorafleet_serve.engine.requests import AdapterUse

    def use(engine, name, scale):
        return AdapterUse(version_of(bundle_root / engine.model.base.name / name), scale)

    return [engine.submit(request).result(120).image for request in requests(engine, use)]


def test_together_equals_alone(engine, use, alone):
    asked = requests(engine, use)
    order = list(range(len(asked)))
    random.Random(3).shuffle(order)
    futures = {i: engine.submit(asked[i]) for i in order}
    for i, future in futures.items():
        assert np.abs(pixels(future.result(120).image) - pixels(alone[i])).max() <= BAR, asked[i]


@pytest.mark.parametrize("index", range(16))
def test_alone_equals_stock_diffusers(engine, use, alone, index):
    request = requests(engine, use)[index]
    assert np.abs(pixels(by_stock(engine, request)) - pixels(alone[index])).max() <= BAR


def test_the_bar_can_fail(alone):
    """Different requests differ by far more than the bar, so the tests above compare something."""
    same_size = [pixels(image) for image in alone if image.size == alone[0].size]
    for i, one in enumerate(same_size):
        for other in same_size[i + 1 :]:
            assert np.abs(one - other).max() > 10 * BAR
