"""The engine's manners: rows join and leave, one request's trouble stays its own, nothing is silently the base."""

import shutil
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch

from frozen import weights_hash
from lorafleet.bases import find_base
from lorafleet.bundle.folder_registry import version_of
from lorafleet.bundle.ports import AdapterVersion
from lorafleet.errors import BundleError, BusyError, NonFiniteError, RequestError, UnreachableError, WrongBaseError
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest
from lorafleet_serve.engine.stepper import Stepper

LONG = 60


class Recorder(Stepper):
    """A stepper that remembers which rows stepped together, and can be made to fail on one of them."""

    def __init__(self, model):
        super().__init__(model)
        self.record, self.stackings = [], 0
        self.poison = {}

    def prepare(self, rows):
        before = self._batches.get(self.call(rows[0]))
        batch = super().prepare(rows)
        self.stackings += batch is not before
        return batch

    def step(self, rows):
        ids = tuple(row.id for row in rows)
        for number, problem in self.poison.items():
            if number in ids:
                raise problem
        self.record.append(ids)
        return super().step(rows)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@pytest.fixture
def fresh(playground):
    """An engine of its own on the shared base, recording its steps."""
    engine = StepEngine(playground.model, max_rows=4, max_queue=4)
    engine.stepper = Recorder(playground.model)
    yield engine
    engine.close(drain=False)


def test_rows_join_and_leave_between_steps(fresh, use):
    dog = use(fresh, "dog-rex")
    alone = fresh.submit(GenerateRequest("<dog-rex>", 1, adapters=(dog,), steps=LONG)).result(120).image
    fresh.stepper.record.clear()
    before = fresh.stepper.stackings
    long = fresh.submit(GenerateRequest("<dog-rex>", 1, adapters=(dog,), steps=LONG))
    until(lambda: len(fresh.stepper.record) >= 3)
    short = fresh.submit(GenerateRequest("a cat", 2, steps=2))
    short.result(60)
    assert not long.done()
    together = np.asarray(long.result(120).image, dtype=int)
    assert np.abs(together - np.asarray(alone, dtype=int)).max() <= 2
    compositions = [ids for i, ids in enumerate(fresh.stepper.record) if i == 0 or fresh.stepper.record[i - 1] != ids]
    assert compositions == [(1,), (1, 2), (1,)]
    assert fresh.stepper.record.count((1, 2)) == 2
    assert fresh.stepper.stackings - before == len(compositions)


def test_a_cancelled_row_leaves_at_the_next_step(fresh):
    doomed = fresh.submit(GenerateRequest("a", 1, steps=100, width=64, height=64))
    other = fresh.submit(GenerateRequest("b", 2, steps=LONG, width=64, height=64))
    until(lambda: (0, 1) in fresh.stepper.record)
    assert doomed.cancel()
    other.result(120)
    assert fresh.stepper.record.count((0, 1)) < LONG
    assert fresh.stepper.record[-1] == (1,)
    with pytest.raises(CancelledError):
        doomed.result()


def test_sizes_take_turns(fresh):
    small = fresh.submit(GenerateRequest("a", 1, steps=8))
    wide = fresh.submit(GenerateRequest("b", 2, steps=8, width=48))
    small.result(60)
    wide.result(60)
    both = fresh.stepper.record[1:-1]
    assert fresh.stepper.record.count((0,)) == fresh.stepper.record.count((1,)) == 8
    assert max(both.index(one) for one in ((0,), (1,))) <= 7
    assert wide.result().image.size == (48, 32)


def test_no_more_rows_than_the_cap_and_a_full_queue_says_so(fresh):
    futures = [fresh.submit(GenerateRequest("a", i, steps=20)) for i in range(8)]
    with pytest.raises(BusyError, match="at most 8"):
        fresh.submit(GenerateRequest("one too many", 9, steps=2))
    for future in futures:
        future.result(120)
    assert max(len(ids) for ids in fresh.stepper.record) == 4
    fresh.submit(GenerateRequest("room again", 9, steps=1)).result(60)


def test_a_row_that_becomes_non_finite_fails_alone(fresh, tools, tmp_path):
    weights = {key: tensor * 1e27 for key, tensor in tools["some_weights"](fresh).items()}
    bundle = tools["make_bundle"](tmp_path, fresh.model.base, "wild", rank=2, weights=weights)
    fine = GenerateRequest("a dog", 5, steps=6)
    alone = np.asarray(fresh.submit(fine).result(60).image, dtype=int)
    wild = fresh.submit(GenerateRequest("a", 1, adapters=(AdapterUse(version_of(bundle.path)),), steps=6))
    other = fresh.submit(fine)
    with pytest.raises(NonFiniteError, match="of 6"):
        wild.result(60)
    assert np.abs(np.asarray(other.result(60).image, dtype=int) - alone).max() <= 2


def test_out_of_memory_in_a_step_fails_one_row(fresh):
    fresh.stepper.poison[1] = torch.OutOfMemoryError("no memory for this one")
    futures = [fresh.submit(GenerateRequest("a", i, steps=4)) for i in range(3)]
    with pytest.raises(torch.OutOfMemoryError):
        futures[1].result(60)
    assert futures[0].result(60).image.size == futures[2].result(60).image.size == (32, 32)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_says_so_and_leaves_nobody_waiting(fresh):
    fresh.check()
    fresh.stepper.poison[0] = TypeError("a programming error")
    future = fresh.submit(GenerateRequest("a", 1, steps=4))
    with pytest.raises(UnreachableError, match="stopped"):
        future.result(60)
    until(lambda: not fresh._thread.is_alive())
    with pytest.raises(UnreachableError, match="restart"):
        fresh.check()
    with pytest.raises(BusyError):
        fresh.submit(GenerateRequest("a", 1))


def test_a_stalled_engine_says_so(fresh):
    future = fresh.submit(GenerateRequest("a", 1, steps=100, width=64, height=64))
    until(lambda: fresh.stepper.record)
    with pytest.raises(UnreachableError, match="not finished a step"):
        fresh.check(stalled_after=-1.0)
    future.cancel()
    until(lambda: not fresh._running)
    fresh.check(stalled_after=0.0)


def test_closing_drains_or_fails(playground):
    draining = StepEngine(playground.model, max_rows=1)
    futures = [draining.submit(GenerateRequest("a", i, steps=3)) for i in range(3)]
    draining.close()
    assert all(future.result(0).image for future in futures)
    with pytest.raises(BusyError, match="shutting down"):
        draining.submit(GenerateRequest("late", 1))
    hasty = StepEngine(playground.model, max_rows=1)
    futures = [hasty.submit(GenerateRequest("a", i, steps=100)) for i in range(3)]
    hasty.close(drain=False)
    for future in futures[1:]:
        with pytest.raises(BusyError, match="shutting down"):
            future.result(0)


def test_the_base_is_untouched_by_adapters(playground, use):
    request = GenerateRequest("a photo of a dog", 3, steps=4)
    before, image = weights_hash(playground.model.loaded), playground.submit(request).result(60).image
    for scale in (1.0, -2.0):
        playground.submit(
            GenerateRequest("<dog-rex>", 3, adapters=(use(playground, "dog-rex", scale),), steps=3)
        ).result(60)
    assert weights_hash(playground.model.loaded) == before
    assert playground.submit(request).result(60).image.tobytes() == image.tobytes()
    playground.submit(GenerateRequest("end", 1, steps=1)).result(60)
    assert not any(layer.spans for layer in playground.model.loaded.lora["unet"].layers.values())


def bad_bundles(engine, tools, root):
    """Name -> (bundle folder, what the message must say)."""
    some, base = tools["some_weights"](engine), engine.model.base
    key, other = list(some)[:2]
    nan = {**some, key: torch.full_like(some[key], float("nan"))}
    stray = {**some, "unet.conv_in.lora.down.weight": torch.ones(2, 4)}
    text = {**some, "text_encoder.text_model.q_proj.lora_A.weight": torch.ones(2, 48)}
    cases = {
        "nan": (nan, 2, "not finite"),
        "stray": (stray, 2, r"conv_in.*expected floats \[2, 4, 3, 3\]"),
        "text": (text, 2, "text_encoder.*binds no layer"),
        "narrow": ({**some, key: some[key][:, :-1].contiguous()}, 2, "expected floats"),
        "ranked": (some, 3, r"expected floats \[3"),
        "lonely": ({k: v for k, v in some.items() if k != other}, 2, "lacks its factor B"),
        "double": ({**some, key.replace(".lora.down.", ".lora_A."): some[key].clone()}, 2, "second time"),
        "whole": ({**some, key: some[key].long()}, 2, "int64"),
        "empty": ({}, 2, "binds no layer"),
    }
    made = {
        name: (tools["make_bundle"](root, base, name, rank=rank, weights=weights).path, says)
        for name, (weights, rank, says) in cases.items()
    }
    card = tools["card_for"](base, "tokenless", 2, tokens=(0,))
    tokenless = tools["make_bundle"](root, base, "tokenless", rank=2, weights=some, base_card=card)
    return {**made, "tokenless": (tokenless.path, "has none")}


def test_an_adapter_that_does_not_fit_is_an_error_and_never_the_base(playground, tools, tmp_path):
    for name, (path, says) in bad_bundles(playground, tools, tmp_path).items():
        future = playground.submit(GenerateRequest("a", 1, adapters=(AdapterUse(version_of(path)),), steps=1))
        with pytest.raises(BundleError, match=says) as caught:
            future.result(60)
        assert name in str(caught.value)


def test_another_base_s_adapter_is_refused(playground, bundle_root):
    stranger = version_of(bundle_root / "toy-sdxl" / "dog-rex")
    future = playground.submit(GenerateRequest("a", 1, adapters=(AdapterUse(stranger),), steps=1))
    if find_base("toy-sdxl").fingerprint != playground.model.base.fingerprint:
        with pytest.raises(WrongBaseError, match="toy-sdxl"):
            future.result(60)


def test_a_missing_or_altered_bundle_is_refused(playground, bundle_root, tmp_path):
    gone = AdapterVersion("gone", 1, (), "toy-playground", (), tmp_path / "gone")
    with pytest.raises(BundleError, match="gone"):
        playground.submit(GenerateRequest("a", 1, adapters=(AdapterUse(gone),), steps=1)).result(60)
    copy = tmp_path / "dog-rex"
    shutil.copytree(bundle_root / "toy-playground" / "dog-rex", copy)
    with (copy / "embeddings.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BundleError, match="sha256"):
        playground.submit(GenerateRequest("a", 1, adapters=(AdapterUse(version_of(copy)),), steps=1)).result(60)


def test_nothing_is_kept_of_requests_that_ended(fresh):
    futures = [fresh.submit(GenerateRequest("a", seed, steps=1)) for seed in range(3)]
    for future in futures:
        future.result(60)
    fresh.close()
    assert (dict(fresh._open), set(fresh._stepped), dict(fresh._running)) == ({}, set(), {})


def test_bounds_are_checked_before_anything_is_queued(playground):
    with pytest.raises(RequestError, match="steps is 101"):
        playground.submit(GenerateRequest("a", 1, steps=101))
