"""Exact mode: an image's bits depend on its request alone, whatever else is made, and who joins and leaves when.

`tests/test_kernels.py` runs this file once more for each choice of the processor's kernels.
"""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lorafleet.bundle.folder_registry import version_of
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapterCache, HostLoader
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.init_image import InitImage, Picture
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.request_state import RequestState, make_row
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest, with_defaults
from lorafleet_serve.engine.rows import own_call, shared_call
from lorafleet_serve.engine.scheduler import RoundRobin
from lorafleet_serve.engine.stepper import Stepper
from lorafleet_serve.stats import Counts

AT_ONCE, LAST = 3, 14


def requests(engine, use):
    dog, mug, plain, dora = (lambda s=1.0, n=n: use(engine, n, s) for n in ("dog-rex", "mug-red", "plain", "dora"))
    few = use(engine, "few-steps", 1.0)
    own, other, *_ = engine.model.samplers
    lcm, tcd = (name if name in engine.model.samplers else own for name in ("lcm", "tcd"))
    return [
        GenerateRequest("a dog", 1, steps=3),
        GenerateRequest("a dog", 2, steps=2, guidance_scale=0.0, scheduler=other),
        GenerateRequest("<dog-rex>", 3, adapters=(dog(),), steps=3, guidance_scale=5.0, guidance_rescale=0.7),
        GenerateRequest("TOK", 4, adapters=(mug(0.5),), steps=2, guidance_scale=1.0),
        GenerateRequest("<dora>", 5, adapters=(dora(),), steps=3, negative_prompt="blurry"),
        GenerateRequest("<dora> <dog-rex>", 6, adapters=(dora(0.7), dog(-0.5)), steps=2),
        GenerateRequest("TOK", 7, adapters=(plain(),), steps=1, clip_skip=1),
        GenerateRequest("<mug-red> " + "and a dog " * 30, 8, adapters=(mug(),), steps=2),
        GenerateRequest("wide", 9, adapters=(dog(),), steps=2, width=48, scheduler=engine.model.samplers[-1]),
        GenerateRequest("own", 10, adapters=(plain(), dog()), steps=3, scheduler=own),
        GenerateRequest("a dog", 11, adapters=(few,), steps=3, scheduler=lcm, guidance_scale=1.0),
        GenerateRequest("<dog-rex>", 12, adapters=(dog(), few), steps=2, scheduler=tcd),
        GenerateRequest("<dog-rex>", 13, adapters=(dog(),), steps=4, init=init(0.6)),
        GenerateRequest("a dog", 14, steps=3, scheduler=lcm, init=init(0.9, mask=True)),
        GenerateRequest("<dora>", 15, adapters=(dora(),), steps=2, guidance_scale=1.0, init=init(1.0, mask=True)),
    ]  # fmt: skip


def init(strength, mask=False):
    picture = Picture.of(Image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), 50).convert("RGB"))
    left = Image.new("L", (32, 32))
    left.paste(255, (0, 0, 17, 32))
    return InitImage.of(picture, (32, 32), strength, Picture.of(left) if mask else None)


@pytest.fixture(scope="module")
def rows(engine, bundle_root):
    """rows() makes all requests' rows anew, as an engine would before their first step."""

    def use(engine, name, scale):
        return AdapterUse(version_of(bundle_root / engine.model.base.name / name), scale)

    model, counts = engine.model, Counts()
    host_cache = HostAdapterCache(HostLoader(model.loaded, model.columns), counts)
    device_cache = DeviceAdapterCache(model.loaded.device, 2**30, counts)
    states = []
    for i, request in enumerate(requests(engine, use)):
        loads = tuple(host_cache.fetch(one.adapter.path) for one in request.adapters)
        states.append(RequestState(i, with_defaults(request, model.base, model.samplers), loads, None))
        device_cache.lease(states[-1].host_adapters)
    yield lambda: [make_row(state, model, device_cache) for state in states]
    host_cache.close()


def finish(stepper, rows, cancelled=()):
    """Final latents by row; calls step in turn, rows join as others leave, some are cancelled after a step."""
    scheduler, running, latents, waiting = RoundRobin(), {}, {}, list(rows)
    while running or waiting:
        while waiting and len(running) < AT_ONCE:
            row = waiting.pop(0)
            running[row.id] = row
        call = scheduler.next([stepper.call(row) for row in running.values()])
        for row in stepper.step([row for row in running.values() if stepper.call(row) == call]):
            running[row.id] = row
            if row.done:
                latents[row.id] = row.x
            if row.done or row.id in cancelled:
                del running[row.id]
        stepper.keep({stepper.call(row) for row in running.values()})
    return latents


@pytest.fixture(scope="module")
def expected(engine, rows):
    """Each row's final latent where nothing else is stepped."""
    stepper = Stepper(engine.model, own_call)
    return {row.id: finish(stepper, [row])[row.id] for row in rows()}


@settings(max_examples=6, deadline=None)
@given(
    order=st.lists(st.integers(0, LAST), unique=True, min_size=3), cancelled=st.sets(st.integers(0, LAST), max_size=2)
)
def test_bits_are_those_of_the_row_alone(engine, rows, expected, order, cancelled):
    made = rows()
    for number, latent in finish(Stepper(engine.model, own_call), [made[i] for i in order], cancelled).items():
        assert torch.equal(latent.view(torch.int32), expected[number].view(torch.int32)), number


def test_the_test_can_fail(engine, rows, expected):
    """Where rows share calls some bits differ, if only a little."""
    latents = finish(Stepper(engine.model, shared_call), rows())
    assert any(not torch.equal(latent, expected[number]) for number, latent in latents.items())
    for number, latent in latents.items():
        torch.testing.assert_close(latent, expected[number], atol=1e-3, rtol=1e-3)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def model(request, playground):
    if request.param == "cpu":
        return playground.model
    return Pipeline.load(playground.model.base, "cuda", "fp16")


def test_pictures_of_an_exact_engine_are_the_same_bytes(model, use):
    engine = StepEngine(model, max_rows=AT_ONCE, exact=True)
    asked = requests(engine, use)
    solo = [engine.submit(request).result(60).image.tobytes() for request in asked]
    futures = [(i, engine.submit(asked[i])) for i in (3, 0, 9, 10, 4, 12, 5, 8, 14, 11, 1, 2, 13, 7, 6, 0, 2, 10, 5)]
    futures[4][1].cancel()
    for i, future in futures:
        if not future.cancelled():
            assert future.result(60).image.tobytes() == solo[i], asked[i]
    engine.close()


@pytest.mark.parametrize("exact", [True, False])
def test_kernels_of_an_exact_engine_are_deterministic(playground, exact):
    torch.use_deterministic_algorithms(False)
    StepEngine(playground.model, exact=exact).close()
    assert torch.are_deterministic_algorithms_enabled() == exact
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("exact", "shared"), [(True, False), (False, True)])
def test_calls_of_an_exact_engine_are_each_of_one_image(playground, exact, shared):
    """Guided and unguided images at once, in calls of two rows and of one: nothing is shared, and nothing filled up."""
    engine, seen = StepEngine(playground.model, max_rows=4, exact=exact), []

    def look(_, inputs):
        while not seen and len(engine._running) + len(engine._ready) < 4:  # the first call waits for all to be there
            time.sleep(0.002)
        seen.append(len(inputs[0]))

    handle = playground.model.loaded.unet.register_forward_pre_hook(look)
    futures = [engine.submit(GenerateRequest("a", i, steps=4, guidance_scale=(3.0, 1.0)[i % 2])) for i in range(4)]
    for future in futures:
        future.result(60)
    handle.remove()
    engine.close()
    assert sum(seen) == 4 * (2 + 1 + 2 + 1)
    assert (max(seen) > 2) == shared
    assert engine.stats().unet_rows == sum(seen)
    assert engine.stats().steps == len(seen)
    assert shared or sorted(seen) == [1] * 8 + [2] * 8
