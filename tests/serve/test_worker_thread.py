"""Encoding and decoding happen beside the steps, never between them; a stage's trouble is one request's."""

import threading
from contextlib import ExitStack

import pytest
from PIL import Image

from lorafleet.errors import RequestError, UnreachableError
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.init_image import InitImage, Picture
from lorafleet_serve.engine.requests import GenerateRequest
from lorafleet_serve.engine.stepper import Stepper


@pytest.fixture
def fresh(playground):
    engine = StepEngine(playground.model, max_rows=4, max_queue=8)
    yield engine
    engine.close(drain=False)


@pytest.fixture
def hook():
    """hook(module, call) runs call(inputs) before each forward of the module, for this test."""
    with ExitStack() as stack:

        def put(module, call):
            handle = module.register_forward_pre_hook(lambda _, inputs: call(inputs))
            stack.callback(handle.remove)

        yield put


def parts(engine):
    loaded = engine.model.loaded
    return {
        "text": loaded.prompts.encoders[0],
        "picture": loaded.vae.encoder,
        "unet": loaded.unet,
        "vae": loaded.vae.decoder,
    }


def picture(level):
    return InitImage.of(Picture.of(Image.new("RGB", (32, 32), (level, 90, 200))), (32, 32), 0.5)


def test_each_part_of_the_base_has_one_thread(fresh, hook, use):
    seen = {name: set() for name in parts(fresh)}
    for name, module in parts(fresh).items():
        hook(module, lambda _, name=name: seen[name].add(threading.current_thread().name))
    dog, dora = use(fresh, "dog-rex"), use(fresh, "dora")
    asked = [GenerateRequest(f"<dog-rex> {i}", i, adapters=(dog,), steps=3) for i in range(3)]
    asked += [GenerateRequest(f"<dora> {i}", i, adapters=(dora,), steps=2, negative_prompt="blurry") for i in range(3)]
    asked += [GenerateRequest("a dog", i, steps=3, init=picture(i)) for i in range(3)]
    for future in [fresh.submit(request) for request in asked]:
        future.result(60)
    assert seen == {"text": {"encoder"}, "picture": {"encoder"}, "unet": {"step-engine"}, "vae": {"decoder"}}


@pytest.mark.parametrize(("part", "steps"), [("vae", 2), ("text", 8), ("picture", 8)])
def test_steps_go_on_while_another_request_is_encoded_or_decoded(fresh, hook, part, steps):
    """The stage stands still until somebody else has taken more steps; it would wait in vain if they waited for it."""
    fresh.submit(GenerateRequest("warm", 1, steps=1)).result(60)
    other = fresh.submit(GenerateRequest("warm", 2, steps=100))  # its prompt is known: no encoding
    calls, enough, taken = [], threading.Event(), []

    def stand(_):
        calls.append(None)
        before = fresh.stats().steps
        while fresh.stats().steps < before + 5:
            enough.wait(0.01)
        taken.append(fresh.stats().steps - before)

    hook(parts(fresh)[part], stand)
    fresh.submit(GenerateRequest(f"held up in {part}", 3, steps=steps, init=picture(100 + len(part)))).result(60)
    assert calls
    assert not other.done()
    assert min(taken) >= 5
    other.cancel()


@pytest.mark.parametrize("part", ["vae", "text", "picture"])
def test_a_stage_s_failure_is_one_request_s(fresh, hook, part):
    alone = fresh.submit(GenerateRequest("fine", 1, steps=3)).result(60).image.tobytes()
    first = []

    def fail(_):
        if not first:
            first.append(None)
            raise RuntimeError("no kernel for this one")

    hook(parts(fresh)[part], fail)
    with pytest.raises(RuntimeError, match="for this one"):
        fresh.submit(GenerateRequest(f"unlucky in {part}", 2, steps=2, init=picture(150 + len(part)))).result(60)
    again = fresh.submit(GenerateRequest("fine", 1, steps=3))
    assert again.result(60).image.tobytes() == alone
    assert (fresh.stats().failed, fresh.stats().images) == (1, 2)
    fresh.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_stage_leaves_nobody_waiting(fresh, hook):
    def break_(_):
        raise TypeError("a programming error")

    hook(parts(fresh)["vae"], break_)
    futures = [fresh.submit(GenerateRequest("a", i, steps=3 + i)) for i in range(4)]
    for future in futures:
        with pytest.raises(UnreachableError, match="send the request again"):
            future.result(60)
    with pytest.raises(UnreachableError, match="restart"):
        fresh.check()


def test_the_counts(playground, use):
    engine = StepEngine(playground.model, max_rows=4)
    dog, mug = use(engine, "dog-rex"), use(engine, "mug-red")
    before = engine.stats()
    for adapters in ((dog,), (dog, mug), ()):
        engine.submit(GenerateRequest("counted", 1, adapters=adapters, steps=3, guidance_scale=3.0)).result(60)
    engine.submit(GenerateRequest("counted", 1, steps=2, guidance_scale=1.0)).result(60)
    cancelled = engine.submit(GenerateRequest("counted", 1, steps=100))
    cancelled.cancel()
    engine.close()
    stats = engine.stats()
    assert (stats.images, stats.failed, stats.cancelled) == (4, 0, 1)
    assert (stats.host_hits, stats.host_misses, stats.slot_hits, stats.slot_misses) == (1, 2, 1, 2)
    assert stats.slot_evictions == 0
    assert stats.slot_bytes > 0
    assert stats.prompt_misses - before.prompt_misses == 3  # with dog's tokens, both's, and none
    assert stats.prompt_hits - before.prompt_hits >= 1
    assert stats.steps >= 11
    assert stats.unet_rows - 2 * stats.steps == -2  # the unguided one's two steps
    assert stats.rows_running == stats.rows_waiting == 0
    assert stats.step_seconds > 0
    assert {path.rsplit("/", 1)[1] for path in engine.adapters_held()} == {"dog-rex", "mug-red"}


class Slow(Stepper):
    """Steps that take 10 ms a UNet row by the test's own clock."""

    now = 0.0

    def __init__(self, model):
        super().__init__(model)
        self.taken = []

    def step(self, rows):
        self.taken.append(sum(row.unet_rows for row in rows))
        self.now += 0.01 * self.taken[-1]
        return super().step(rows)


def test_a_step_is_bounded_in_milliseconds(playground):
    stepper = Slow(playground.model)
    engine = StepEngine(playground.model, max_rows=6, max_step_ms=45.0, clock=lambda: stepper.now)
    engine.stepper = stepper
    futures = [engine.submit(GenerateRequest("a", i, steps=12, guidance_scale=3.0)) for i in range(6)]
    for future in futures:
        future.result(60)
    engine.close()
    assert sum(stepper.taken) == 6 * 12 * 2
    assert max(stepper.taken) <= 6  # one image more than fits was tried
    assert stepper.taken.count(6) <= 1
    assert stepper.taken.count(4) > 20


def test_exact_and_a_bound_on_milliseconds_exclude_each_other(playground):
    with pytest.raises(RequestError, match="leave it out"):
        StepEngine(playground.model, exact=True, max_step_ms=10.0)
