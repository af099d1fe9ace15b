"""Trouble with one adapter, one row or one step stays there: everybody else's pixels are as without it."""

import shutil
import threading
import time

import numpy as np
import pytest
import torch

from lorafleet.bundle.folder_registry import version_of
from lorafleet.errors import BundleError, NonFiniteError, RequestError
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest

BAR = 2


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.fixture
def engine(playground):
    """An engine of its own on the shared base; `remake(...)` is another with other settings, for when it is idle."""
    made = [StepEngine(playground.model, max_rows=4, max_queue=16)]

    def remake(**options):
        made.append(StepEngine(playground.model, **{"max_rows": 4, "max_queue": 16, **options}))
        return made[-1]

    made[0].remake = remake
    yield made[0]
    for one in made:
        one.close(drain=False)


@pytest.fixture
def bundle(tmp_path, playground, tools):
    """bundle(name, value) writes a rank 2 adapter whose factors all hold `value`, and returns its use."""

    def write(name, value=0.1, rank=2):
        weights = tools["some_weights"](playground, rank=rank, value=value)
        made = tools["make_bundle"](tmp_path, playground.model.base, name, rank=rank, weights=weights)
        return AdapterUse(version_of(made.path))

    return write


def asked(use=None, seed=1, steps=6, **more):
    return GenerateRequest("a photo of a dog", seed, adapters=() if use is None else (use,), steps=steps, **more)


def image(engine, request):
    return engine.submit(request).result(60).image


def near(one, other):
    return one.size == other.size and np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= BAR


@pytest.fixture
def gate(playground):
    """An event; while it is not set, steps stand still."""
    opened = threading.Event()
    opened.set()
    handle = playground.model.loaded.unet.register_forward_pre_hook(lambda *_: None if opened.wait(60) else ())
    yield opened
    opened.set()
    handle.remove()


def test_an_adapter_that_is_replaced_while_its_rows_run(engine, bundle, gate):
    use = bundle("rex", 0.1)
    old = image(engine, asked(use))
    gate.clear()
    running = engine.submit(asked(use))
    until(lambda: engine.stats().rows_running == 1)
    use = bundle("rex", 0.15)
    fresh = engine.submit(asked(use))
    until(lambda: engine.stats().slot_misses == 2)
    gate.set()
    assert near(running.result(60).image, old)
    new = fresh.result(60).image
    assert near(new, image(engine.remake(), asked(use)))
    assert not near(old, new)


def test_an_adapter_that_can_no_longer_be_loaded_while_its_rows_run(engine, bundle, gate):
    use = bundle("rex")
    alone = image(engine, asked(use))
    gate.clear()
    running = engine.submit(asked(use))
    until(lambda: engine.stats().rows_running == 1)
    weights = use.adapter.path / "pytorch_lora_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (use.adapter.path / "adapter.json").touch()
    with pytest.raises(BundleError, match="sha256"):
        engine.submit(asked(use)).result(60)
    shutil.rmtree(use.adapter.path)
    with pytest.raises(BundleError, match="no readable"):
        engine.submit(asked(use)).result(60)
    gate.set()
    assert near(running.result(60).image, alone)


def test_adapters_come_and_go_through_one_slot(engine, bundle):
    """Room for one adapter on the device and none in host memory: the others wait until its rows have left."""
    uses = [bundle(name, value) for name, value in (("a", 0.05), ("b", 0.1), ("c", 0.15))]
    alone = [image(engine, asked(use)) for use in uses]
    one = engine.stats().slot_bytes // 3
    tight = engine.remake(slot_bytes=one, host_bytes=1)
    futures = [tight.submit(asked(use)) for use in uses * 3]
    base = tight.submit(asked())
    for future, expected in zip(futures, alone * 3, strict=True):
        assert near(future.result(60).image, expected)
    assert near(base.result(60).image, image(engine, asked()))
    stats = tight.stats()
    assert stats.slot_bytes == one
    assert stats.slot_evictions >= 2
    assert stats.slot_hits + stats.slot_misses == 9
    with pytest.raises(RequestError, match="raise the server's slot bytes"):
        tight.submit(GenerateRequest("two", 1, adapters=tuple(uses[:2]), steps=1)).result(60)


def test_a_waiting_request_can_be_cancelled_and_the_next_goes_on(engine, bundle, gate):
    use, other = bundle("a"), bundle("b")
    image(engine, asked(use, steps=1))
    tight = engine.remake(slot_bytes=engine.stats().slot_bytes)
    gate.clear()
    running = tight.submit(asked(use, steps=30))
    until(lambda: tight.stats().rows_running == 1)
    waiting = tight.submit(asked(other))
    until(lambda: len(tight.adapters_held()) == 2)  # the other is loaded, and no slot is free
    after = tight.submit(asked(use, steps=2))
    waiting.cancel()
    gate.set()
    after.result(60)
    assert not running.done()
    assert tight.stats().slot_misses == 1


def test_a_poisoned_adapter_fails_alone_and_its_position_is_clean_for_the_next(engine, bundle):
    use, wild = bundle("fine"), bundle("wild", 1e30)
    alone = image(engine, asked(use, steps=8))
    together = [engine.submit(asked(use, steps=8)), engine.submit(asked(wild)), engine.submit(asked(use, steps=8))]
    with pytest.raises(NonFiniteError, match="of 6"):
        together[1].result(60)
    after = engine.submit(asked(use, steps=8))
    assert all(near(future.result(60).image, alone) for future in (together[0], together[2], after))


@pytest.fixture
def memory(playground):
    """memory(fits) makes the UNet run out of memory for every batch that `fits` says no to."""
    handles = []

    def limit(fits):
        def before(_, inputs):
            if not fits(inputs[0]):
                raise torch.OutOfMemoryError("no memory for such a batch")

        handles.append(playground.model.loaded.unet.register_forward_pre_hook(before))

    yield limit
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("exact", [False, True])
def test_a_step_too_large_for_memory_is_taken_in_parts(engine, bundle, memory, exact):
    """In exact mode each image has a call of its own: none is ever too large."""
    engine = engine.remake(exact=exact)
    requests = [asked(bundle(f"s{i}", 0.05 * i), seed=i) for i in range(4)]
    alone = [image(engine, request) for request in requests]
    sizes = []
    memory(lambda x: sizes.append(len(x)) or len(x) <= 4)
    futures = [engine.submit(request) for request in requests]
    for future, expected in zip(futures, alone, strict=True):
        assert near(future.result(60).image, expected)
    assert engine.stats().failed == 0
    assert max(sizes) <= 2 if exact else max(sizes) > 4
    assert sum(size > 4 for size in sizes) <= 2  # learned at once


def test_a_size_that_never_fits_fails_with_its_reason_and_the_rest_finish(engine, bundle, memory):
    requests = [asked(bundle(f"s{i}", 0.05 * i), seed=i) for i in range(3)]
    alone = [image(engine, request) for request in requests]
    memory(lambda x: x.shape[-1] == x.shape[-2])
    wide = [engine.submit(asked(seed=i, width=48)) for i in range(2)]
    futures = [engine.submit(request) for request in requests]
    for future in wide:
        with pytest.raises(torch.OutOfMemoryError, match="such a batch"):
            future.result(60)
    for future, expected in zip(futures, alone, strict=True):
        assert near(future.result(60).image, expected)


def test_a_corrupt_and_a_vanished_bundle_among_others(engine, bundle):
    fine, corrupt, gone = (bundle(name) for name in ("fine", "corrupt", "gone"))
    alone = image(engine, asked(fine))
    card = corrupt.adapter.path / "adapter.json"
    card.write_text(card.read_text()[:-20])
    shutil.rmtree(gone.adapter.path)
    futures = [engine.submit(asked(use)) for use in (fine, corrupt, fine, gone, fine)]
    for bad in (1, 3):
        with pytest.raises(BundleError, match="corrupt" if bad == 1 else "gone"):
            futures[bad].result(60)
    assert all(near(futures[i].result(60).image, alone) for i in (0, 2, 4))
    assert (engine.stats().failed, engine.stats().images) == (2, 4)


@pytest.mark.parametrize(
    ("key", "shape", "says"),
    [
        ("conv_in.lora.down.weight", (2, 4, 1, 1), r"expected floats \[2, 4, 3, 3\]"),
        ("conv_in.lora.up.weight", (48, 2), r"expected floats \[48, 2, 1, 1\]"),
        ("conv_in.lora_mid.weight", (2, 2, 3, 3), "linear layers and convolutions are served"),
        ("conv_in.hada_w1_a", (48, 2), "linear layers and convolutions are served"),
        ("conv_norm_out.diff", (48,), "linear layers and convolutions are served"),
    ],
)
def test_what_is_not_served_is_refused_by_key(engine, tools, tmp_path, key, shape, says):
    """A kernel of another size, Tucker factors, LoHa, norms."""
    weights = {**tools["some_weights"](engine), f"unet.{key}": torch.ones(shape)}
    made = tools["make_bundle"](tmp_path, engine.model.base, "foreign", rank=2, weights=weights)
    with pytest.raises(BundleError, match=f"'unet.{key}'.*{says}"):
        engine.submit(asked(AdapterUse(version_of(made.path)))).result(60)


def test_tokens_of_one_name_are_each_request_s_own(engine, tools, tmp_path):
    """Two adapters whose triggers and abstractions are called the same, in one batch."""
    base = engine.model.base
    card = tools["card_for"](base, "same", 4, tokens=(0, 1))
    uses = [
        AdapterUse(
            version_of(
                tools["make_bundle"](tmp_path, base, name, tokens=2, base_card=card.with_changes(name=name)).path
            )
        )
        for name in ("one", "two")
    ]
    requests = [
        GenerateRequest(f"a photo of {word}", 5, adapters=(use,), steps=4) for use in uses for word in ("TOK", "<same>")
    ]
    alone = [image(engine, request) for request in requests]
    together = [engine.submit(request) for request in requests * 2]
    for future, expected in zip(together, alone * 2, strict=True):
        assert near(future.result(60).image, expected)
    assert near(alone[0], alone[1])  # both words mean the same tokens
    assert not near(alone[0], alone[2])
    plain = [image(engine, GenerateRequest("a photo of <same>", 5, steps=4)) for _ in range(2)]
    assert plain[0].tobytes() == plain[1].tobytes()
    assert not near(plain[0], alone[1])


def test_a_finished_image_survives_a_moment_without_memory_for_its_decoding(engine, monkeypatch):
    whole, decode, calls = image(engine, asked()), engine.model.loaded.decode, []

    def short_of_memory(x):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("a neighbour's step took it")
        return decode(x)

    monkeypatch.setattr(engine.model.loaded, "decode", short_of_memory)  # memory cannot run out here
    assert image(engine, asked()) == whole
    assert len(calls) == 2
