"""Traffic drawn at random: whatever runs beside it, a request gives its solo picture, and that is stock diffusers'."""

import random
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from frozen import weights_hash
from lorafleet.bundle.bundle import EMBEDDINGS, WEIGHTS
from lorafleet.bundle.folder_registry import version_of
from lorafleet.numerics.captured import CapturedCalls
from lorafleet.numerics.samplers import TCD_GAMMA, scheduler_for
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.init_image import InitImage, Picture
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest
from lorafleet_serve.engine.rows import shared_call
from lorafleet_serve.engine.stepper import Stepper

BAR = 2
TOKENS = {"dog-rex": 2, "mug-red": 1, "plain": 0, "half": 3, "dora": 1, "broad": 1, "few-steps": 0}


@pytest.fixture(scope="module")
def folders(engine, bundle_root, tools, tmp_path_factory):
    """Bundles by name: the session's, and one of rank 32."""
    base, root = engine.model.base, tmp_path_factory.mktemp("broad")
    tools["make_bundle"](root, base, "broad", rank=32, tokens=1, strength=0.04)
    found = {name: bundle_root / base.name / name for name in TOKENS if name != "broad"}
    return {**found, "broad": root / "broad"}


@dataclass(frozen=True)
class Arrival:
    """A request, how many steps the engine has taken since the one before when it comes, and when it gives up."""

    request: GenerateRequest
    after: int
    cancelled_after: int | None


def adapter_uses(folders):
    names = st.lists(st.sampled_from(sorted(folders)), max_size=2, unique=True)
    scale = st.sampled_from([1.0, 1.0, 0.5, -0.4, 0.0])
    return names.flatmap(
        lambda chosen: st.tuples(*(
            scale.map(lambda s, n=name: AdapterUse(version_of(folders[n]), s)) for name in chosen
        ))
    )  # fmt: skip


def prompt_of(uses, noun):
    return " and ".join(["a photo of", noun, *(f"<{use.adapter.name}>" for use in uses)])


@st.composite
def init_images(draw, size, steps):
    """None, for an image of noise alone; else a picture, whole or a part of it, that leaves a step to take."""
    if draw(st.booleans()):
        return None
    picture = Image.linear_gradient("L").convert("RGB").rotate(draw(st.sampled_from([0, 90])))
    mask = draw(st.sampled_from([None, 130, 256]))
    white = Image.new("L", picture.size)
    white.paste(255, (0, 0, mask or 0, 256))
    strength = draw(st.sampled_from([s for s in (0.2, 0.5, 0.75, 1.0) if int(s * steps)]))
    return InitImage.of(Picture.of(picture), size, strength, mask and Picture.of(white))


@st.composite
def requests(draw, engine, folders, most_steps, begun=True):
    """`begun`: some begin from init images."""
    uses = draw(adapter_uses(folders))
    square = draw(st.booleans())
    few = st.integers(1, min(5, most_steps))
    steps, side = draw(st.one_of(few, few, few, st.integers(1, most_steps))), engine.model.base.resolution
    return GenerateRequest(
        prompt_of(uses, draw(st.sampled_from(["a dog", "a red mug", ""]))),
        seed=draw(st.integers(0, 3)),
        negative_prompt=draw(st.sampled_from([None, None, "", "blurry"])),
        adapters=uses,
        steps=steps,
        scheduler=draw(st.sampled_from(engine.model.samplers)),
        guidance_scale=draw(st.sampled_from([None, 0.0, 1.0, 2.0, 5.0])),
        guidance_rescale=draw(st.sampled_from([0.0, 0.0, 0.7])),
        width=None if square else 48,
        init=draw(init_images((side if square else 48, side), steps)) if begun else None,
        clip_skip=draw(st.sampled_from([None, None, 1])),
    )


def arrivals(engine, folders, most_steps, count):
    one = st.builds(
        Arrival, requests(engine, folders, most_steps), st.integers(0, 4), st.sampled_from([None, None, None, 0, 1, 3])
    )
    return st.lists(one, min_size=2, max_size=count)


def pause(engine, steps):
    """Until the engine has taken so many more steps, or has nothing to do."""
    before = engine.stats().steps
    while engine.stats().steps < before + steps and engine.stats().rows_running:
        time.sleep(0.001)


def near(one, other):
    return one.size == other.size and np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= BAR


@pytest.fixture(scope="module")
def solo(engine):
    """solo(request): its picture when nothing else runs."""
    known = {}

    def picture(request):
        if request not in known:
            known[request] = engine.submit(request).result(120).image
        return known[request]

    return picture


@pytest.fixture(scope="module")
def stock(engine, folders):
    """stock(request): its picture by diffusers' own pipeline, each time with fresh adapters."""

    def picture(request):
        base = engine.model.base
        uses = [use for use in request.adapters if use.scale]  # DoRA of scale 0 is no base there
        pipe = StableDiffusionXLPipeline.from_pretrained(base.path, dtype=torch.float32, use_safetensors=True)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = scheduler_for(request.scheduler, base.scheduler)
        for use in uses:
            pipe.load_lora_weights(use.adapter.path, weight_name=WEIGHTS, adapter_name=peft_name(use))
        for use in request.adapters:
            learn_tokens(pipe, use)
        if uses:
            pipe.set_adapters([peft_name(use) for use in uses], [use.scale for use in uses])
        guidance = base.default_guidance if request.guidance_scale is None else request.guidance_scale
        return pipe(
            prompt=typed(request.prompt), negative_prompt=request.negative_prompt,
            num_inference_steps=request.steps, guidance_scale=guidance, guidance_rescale=request.guidance_rescale,
            width=request.width or base.resolution, height=base.resolution, clip_skip=request.clip_skip,
            eta=TCD_GAMMA if request.scheduler == "tcd" else 0.0,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]  # fmt: skip

    return picture


def peft_name(use):
    return "adapter_" + use.adapter.name.replace("-", "_")


def tokens_of(name):
    return [f"<{name}-t{i}>" for i in range(TOKENS[name])]


def learn_tokens(pipe, use):
    if tokens := tokens_of(use.adapter.name):
        vectors = load_file(use.adapter.path / EMBEDDINGS)
        pipe.load_textual_inversion(list(vectors["clip_l"]), tokens, pipe.tokenizer, pipe.text_encoder)
        pipe.load_textual_inversion(list(vectors["clip_g"]), tokens, pipe.tokenizer_2, pipe.text_encoder_2)


def typed(prompt):
    """As a stock user types it: learned tokens by name; `plain` has a text in the place of its trigger."""
    for name in TOKENS:
        prompt = prompt.replace(f"<{name}>", "".join(tokens_of(name)) or "red dog")
    return prompt


def check_together(engine, solo, traffic):
    """Sends the traffic, then compares every picture that was not given up."""
    sent = []
    for arrival in traffic:
        pause(engine, arrival.after)
        sent.append((arrival, engine.submit(arrival.request), engine.stats().steps))
        for earlier, future, then in sent:
            if earlier.cancelled_after is not None and engine.stats().steps - then >= earlier.cancelled_after:
                future.cancel()
    made = []
    for arrival, future, _ in sent:
        try:
            made.append((arrival.request, future.result(120).image))
        except CancelledError:
            assert arrival.cancelled_after is not None
    for request, image in made:
        assert near(image, solo(request)), request


def profile(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_together_equals_alone(engine, folders, solo):
    @profile(5)
    @given(arrivals(engine, folders, 8, 6))
    def check(traffic):
        check_together(engine, solo, traffic)

    check()


@pytest.fixture
def recorded(engine):
    """An engine on the same base whose steps are recorded: on a CPU, called on the buffers of a graph."""
    made = StepEngine(engine.model, max_rows=12)
    made.stepper = Stepper(engine.model, shared_call, CapturedCalls(engine.model.loaded.device))
    yield made
    made.close()


def test_recorded_steps_equal_alone(engine, recorded, folders, solo):
    """`solo` is the engine whose steps are not recorded."""

    @profile(5)
    @given(arrivals(engine, folders, 8, 6))
    def check(traffic):
        check_together(recorded, solo, traffic)

    check()


def test_nothing_is_recorded_anew_for_other_adapters_seeds_and_samplers(engine, recorded, folders):
    def make(names, count):
        uses = [(AdapterUse(version_of(folders[name]), 1.0),) if name else () for name in names]
        requests = [
            GenerateRequest(prompt_of(use, "a dog"), i, adapters=use, steps=2 + i % 3, scheduler=scheduler)
            for i, (use, scheduler) in enumerate(zip(uses * count, engine.model.samplers * count, strict=False))
        ]
        return [recorded.submit(request).result(60) for request in requests]

    make(["broad", "dora"], 1)
    calls = recorded.stepper._calls
    before = calls.recorded
    assert before
    make(["dog-rex", "mug-red", None, "dora", "half", "few-steps"], 1)
    stochastic = 1  # a sampler that adds noise reads one input more
    assert calls.recorded <= before + stochastic


def test_alone_equals_stock_diffusers(engine, folders, solo, stock):
    @profile(4)
    @given(requests(engine, folders, 8, begun=False))
    def check(request):
        assert near(solo(request), stock(request)), request

    check()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_much_traffic(engine, folders, solo, stock):
    @profile(40)
    @given(arrivals(engine, folders, 30, 12))
    def together(traffic):
        check_together(engine, solo, traffic)

    @profile(60)
    @given(requests(engine, folders, 30, begun=False))
    def alone(request):
        assert near(solo(request), stock(request)), request

    together()
    alone()


def many_requests(engine, folders, count):
    """Adapters, several at once and the base in turn, in one or two steps."""
    draw, names = random.Random(4), sorted(folders)
    for i in range(count):
        uses = tuple(
            AdapterUse(version_of(folders[name]), 1.0) for name in draw.sample(names, draw.choice([0, 1, 1, 2]))
        )
        yield GenerateRequest(
            prompt_of(uses, "a dog"), i, adapters=uses, steps=draw.choice([1, 2]), width=draw.choice([None, None, 48]),
            guidance_scale=draw.choice([None, 1.0]),
        )  # fmt: skip


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_the_base_is_the_same_to_the_bit_after_many_requests(engine, folders, count):
    base = [GenerateRequest("a photo of a dog", i, steps=4, guidance_scale=g) for i, g in enumerate((None, 1.0))]
    before = [engine.submit(request).result(60).image.tobytes() for request in base]
    weights = weights_hash(engine.model.loaded)
    crowded = StepEngine(engine.model, max_rows=12, max_queue=1000, slot_bytes=3 * 2**20)
    for future in [crowded.submit(request) for request in many_requests(engine, folders, count)]:
        future.result(600)
    assert crowded.stats().slot_evictions > 0
    crowded.close()
    assert [engine.submit(request).result(60).image.tobytes() for request in base] == before
    assert weights_hash(engine.model.loaded) == weights
