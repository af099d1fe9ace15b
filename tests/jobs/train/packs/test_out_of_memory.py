"""A device too small for a pack is asked in halves once the failed call's memory is free, and in full again later.

The device here is a count of activations that are alive: the UNet's hidden states, which a failed call's frames keep.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from packs_here import (
    alone,
    compare,
    difference,
    double,
    nothing_is_left_on,
    prepared,
    spec_of,
    together,
)

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.batching import PATIENCE, CompiledBatching, DynamicBatching, ExactBatching
from lorafleet_jobs.train.pack import train_step, train_step_alone

EXACT = 1e-9


@pytest.fixture(scope="module")
def loaded():
    return double(LoadedBase.load(find_base("toy-sdxl")))


@contextmanager
def device_of(loaded, rows):
    """While it lasts, a step fails once hidden states of more than so many rows are alive; yields each call's rows."""
    alive, calls = weakref.WeakSet(), []

    def keep(module, args, output):
        alive.add(output)

    def check(module, args):
        calls.append(len(args[0]))
        if sum(len(states) for states in alive) > rows:
            raise torch.OutOfMemoryError("no room")

    last = loaded.unet.up_blocks[-1]
    handles = [last.register_forward_hook(keep), loaded.unet.conv_out.base.register_forward_pre_hook(check)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def specs(loaded, photos, count, **recipe):
    return [spec_of(loaded, photos, 2, rank=2, batch_size=1, seed=seed, **recipe) for seed in range(count)]


def test_halves_are_asked_after_the_failed_call_has_let_its_memory_go(loaded, photos):
    jobs = [(prepared(loaded, spec), 1) for spec in specs(loaded, photos, 4)]
    batching = DynamicBatching()
    with device_of(loaded, 3) as calls:
        outcomes = train_step(jobs, batching)
    assert batching.most_rows == 2, "of calls that fitted"
    assert all(isinstance(outcome, float) for outcome in outcomes)
    assert calls == [4, 2, 2], "two jobs fit at once, so one by one would be a failed call's memory still held"


def test_no_gradient_counts_twice_and_results_are_those_of_jobs_alone(loaded, photos):
    wanted = specs(loaded, photos, 5, gradient_accumulation=2)
    with device_of(loaded, 3):
        trainings, losses = together(loaded, wanted, [0] * 5)
    for spec, training, trace in zip(wanted, trainings, losses, strict=True):
        lonely, expected = alone(loaded, spec)
        assert trace == pytest.approx(expected, rel=EXACT)
        compare(training, lonely, EXACT)


def test_one_job_that_does_not_fit_alone_says_so_and_moves_nothing(loaded, photos):
    training = prepared(loaded, spec_of(loaded, photos, 1, rank=2, batch_size=4))
    before = prepared(loaded, training.spec)
    with device_of(loaded, 3), pytest.raises(torch.OutOfMemoryError):
        train_step_alone(training, 1)
    assert difference(training, before) == 0
    assert nothing_is_left_on(loaded)


def sizes(calls, jobs, fits, rounds):
    """The sizes that are asked, round by round, on a device for `fits` jobs."""
    asked = []
    for _ in range(rounds):
        left, done = list(range(jobs)), []
        for part in calls.split("shape", left):
            parts = [part]
            while parts:
                part = parts.pop(0)
                done.append(len(part))
                if len(part) > fits:
                    calls.overflowed("shape", len(part))
                    parts = [*calls.split("shape", part), *parts]
                else:
                    calls.fitted("shape", len(part))
        asked.append(done)
    return asked


def test_a_size_that_did_not_fit_once_is_tried_again_later():
    """What was in the way may have gone; what is still in the way is met ever more rarely."""
    calls = DynamicBatching()
    assert sizes(calls, 4, 2, 1) == [[4, 2, 2]]
    again = sizes(calls, 4, 4, PATIENCE)  # the device is larger now
    assert again[0] == [2, 2]
    assert again[-1] == [4]
    calls, failures = DynamicBatching(), []
    for n, asked in enumerate(sizes(calls, 4, 2, 8 * PATIENCE)):
        failures += [n] if 4 in asked else []
    waits = [later - before for before, later in pairwise(failures)]
    assert len(waits) >= 2
    assert all(later >= 2 * before for before, later in pairwise(waits))


def test_one_job_a_call_stays_one_and_slots_do_not_grow_back(loaded):
    assert sizes(ExactBatching(), 3, 1, 2 * PATIENCE) == [[1, 1, 1]] * (2 * PATIENCE)
    batching = CompiledBatching(loaded, 4, backend="eager")
    batching.overflowed("shape", 4)
    for _ in range(3 * PATIENCE):
        batching.fitted("shape", 2)
    assert len(batching.slots("shape", ["a"])) == 2, "another number would be compiled anew"
