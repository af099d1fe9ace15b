"""Memory, rates and seconds as they are told: peaks before they are reset, this life's rate, all lives' seconds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from packs_here import spec_of

from lorafleet.bases import find_base
from lorafleet.config import Validation
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train import Pack, TrainJob
from lorafleet_jobs.train import progress as progress_module
from lorafleet_jobs.train.checkpoint import resume
from lorafleet_jobs.train.memory import MIB, MemoryBudget
from lorafleet_jobs.train.progress import History, Progress


class Kept:
    """A tracker that keeps its numbers, by step."""

    def __init__(self):
        self.values = {}

    def metrics(self, step, values):
        self.values.setdefault(step, {}).update(values)

    def image(self, key, step, image, caption=None):
        pass


class Allocator:
    """A device's record of its peak, as torch.cuda keeps it: forgotten when it is reset."""

    def __init__(self):
        self.allocated = self.peak = 100 * MIB

    def step(self, extra):
        self.peak = max(self.peak, self.allocated + extra * MIB)


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now.seconds)
    return now


def test_the_peak_of_a_step_is_told_before_the_device_forgets_it(loaded, photos, tmp_path, monkeypatch):
    device = Allocator()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: device.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: setattr(device, "peak", device.allocated))
    handle = loaded.unet.register_forward_hook(lambda *_: device.step(extra=900))
    tracker, pack = Kept(), Pack(loaded)
    pack.memory = MemoryBudget(capacity=10_000, idle=100)
    spec = spec_of(loaded, photos, 3, rank=2).with_changes(validation=Validation(steps=1))
    try:
        pack.join(TrainJob(spec, tmp_path / "out", tracker, lambda step, loss: None))
        while pack.runs:
            pack.step()
    finally:
        handle.remove()
    assert [tracker.values[step]["perf/peak_memory_mib"] for step in (1, 2, 3)] == [1000, 1000, 1000]


def test_without_a_device_the_peak_is_the_process_s_own(loaded, photos):
    tracker = Kept()
    progress = Progress(tracker, spec_of(loaded, photos), lambda step, loss: None, History())
    progress.after(1, 0.5, torch.optim.SGD([torch.zeros(1)], lr=0.1))
    assert 50 < tracker.values[1]["perf/peak_memory_mib"] < 100_000


def test_rates_are_of_this_life_and_seconds_of_all(loaded, photos, clock):
    tracker, optimizer = Kept(), torch.optim.SGD([torch.zeros(1)], lr=0.1)
    spec = spec_of(loaded, photos, 500, rank=2)
    progress = Progress(tracker, spec, lambda step, loss: None, History(400, [1.0] * 400, 50.0))
    for step in range(401, 411):
        clock.seconds += 2
        progress.after(step, 1.0, optimizer)
    assert tracker.values[410]["perf/steps_per_second"] == pytest.approx(0.5)
    assert progress.summary()["train/seconds"] == pytest.approx(70)
    assert progress.history(410).seconds == pytest.approx(70)
    assert len(progress.history(410).losses) == 410


def test_seconds_outlive_a_life_that_was_cut_short(loaded, photos, tmp_path):
    spec = spec_of(loaded, photos, 4, rank=2).with_changes(validation=Validation(steps=1))

    def join(pack):
        return pack.join(
            TrainJob(
                spec,
                tmp_path / "out",
                Kept(),
                lambda step, loss: None,
                checkpoints=tmp_path / "kept",
                checkpoint_seconds=0,
            )
        )

    first = Pack(loaded)
    run = join(first)
    first.step(), first.step()
    run.close()  # the last checkpoint is written
    kept = resume(tmp_path / "kept", run.training)
    assert kept.step == 2
    assert kept.seconds > 0
    second = join(Pack(loaded))
    assert second.progress.summary()["train/seconds"] >= kept.seconds
    assert second.progress.losses == kept.losses
