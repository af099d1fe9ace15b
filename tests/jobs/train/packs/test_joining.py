"""A job joins in pieces: the pack steps between them, and nobody's result depends on it."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
import torch
from null_tracker import NullTracker
from packs_here import alone, equal, prepared, spec_of, write_photos
from PIL import Image

from lorafleet.bases import find_base
from lorafleet.config import Validation
from lorafleet.errors import DataError
from lorafleet.loaded import LoadedBase
from lorafleet.util.locked import locked
from lorafleet_jobs.train import InPieces, Pack, TrainJob
from lorafleet_jobs.train.batching import ExactBatching
from lorafleet_jobs.train.data.sources import File
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training

GENERATE = {"mode": "generate", "count": 3}


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


@pytest.fixture
def encoded(loaded):
    """The threads in which the VAE encoded so far."""
    seen, encode = [], loaded.vae.encode
    loaded.vae.encode = lambda *args: seen.append(threading.current_thread().name) or encode(*args)
    yield seen
    del loaded.vae.encode


def job(loaded, photos, folder, steps=6, checkpoints=None, **recipe):
    spec = spec_of(loaded, photos, steps, **{"rank": 2, "batch_size": 2} | recipe)
    spec = spec.with_changes(validation=Validation(steps=1))
    return TrainJob(spec, folder, NullTracker(), lambda step, loss: None, checkpoints=checkpoints)


def preparing():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prepare")]


def steps_until_joined(pack, joining):
    steps = 0
    while joining.advance() is None:
        pack.step()
        steps += 1
        time.sleep(0.002)  # for the thread, where there is one core
    return steps


@pytest.mark.parametrize(
    "recipe",
    [{"flip": True}, {"pivotal": {"tokens": 2, "init": {"TOK": "red"}}, "dora": True}, {"crop": "random"}],
    ids=["LoRA", "tokens and DoRA", "random crop"],
)
def test_who_joins_in_pieces_and_who_steps_meanwhile_learn_what_they_learn_alone(loaded, photos, tmp_path, recipe):
    pack = Pack(loaded, batching=ExactBatching())
    first = pack.join(job(loaded, photos, tmp_path / "first", 200))
    pack.step()
    joining = pack.joining(job(loaded, photos, tmp_path / "second", seed=1, **recipe))
    taken = steps_until_joined(pack, joining)
    assert taken >= 2
    second = pack.runs[1]
    assert first.step == taken + 1
    assert second.step == 0
    assert preparing() == []
    while second in pack.runs:
        pack.step()
    for run in (first, second):
        training = prepared(loaded, run.job.spec)
        for step in range(1, run.step + 1):
            train_step_alone(training, step)
        assert equal(run.training, training)


def test_pictures_are_opened_beside_the_steps_and_encoded_one_a_piece(loaded, photos, tmp_path, encoded, monkeypatch):
    opened, picture = [], File.picture
    monkeypatch.setattr(File, "picture", lambda self: opened.append(threading.current_thread().name) or picture(self))
    joining = Pack(loaded).joining(job(loaded, photos, tmp_path / "out", flip=True))
    counts = [0]
    while joining.advance() is None:
        counts.append(len(encoded))
    assert max(b - a for a, b in pairwise(counts)) == 1
    assert encoded == ["MainThread"] * 6
    assert len(opened) == 6 + 3, "each view, and each photograph once more for the strip of training photos"
    assert all(name.startswith("prepare") for name in opened)


@pytest.mark.parametrize("harm", ["gone", "damaged", "other"])
def test_what_cannot_be_prepared_says_what_it_says_at_once_and_changes_nothing(loaded, photos, tmp_path, harm):
    bad = job(loaded, write_photos(tmp_path), tmp_path / "bad")
    file = tmp_path / "2.png"
    {
        "gone": file.unlink,
        "damaged": lambda: file.write_bytes(file.read_bytes()[:60]),
        "other": lambda: Image.new("RGB", (48, 48)).save(file),
    }[harm]()
    with pytest.raises(DataError) as at_once:
        Training.prepare(bad.spec, loaded)
    pack = Pack(loaded)
    pack.join(job(loaded, photos, tmp_path / "good", 20))
    with pytest.raises(DataError) as problem:
        steps_until_joined(pack, pack.joining(bad))
    assert str(problem.value) == str(at_once.value)
    assert "2.png" in str(problem.value)
    assert len(pack.runs) == 1
    assert preparing() == []


def test_who_gives_up_leaves_neither_a_thread_nor_a_lock(loaded, photos, tmp_path):
    """Class images are made under a lock that other processes wait for, one a piece."""
    pack = Pack(loaded, tmp_path / "cache")
    joining = pack.joining(job(loaded, photos, tmp_path / "out", prior=GENERATE))
    made = tmp_path / "cache" / "prior"
    while not list(made.glob("*/0000.png")):
        assert joining.advance() is None
    (lock,) = made.glob("*.lock")
    with pytest.raises(BlockingIOError):
        locked(lock, wait=False)
    assert not list(made.glob("*/0002.png")), "one a piece"
    joining.close()
    locked(lock, wait=False).close()
    assert preparing() == []
    assert pack.runs == []


def test_a_pack_steps_while_another_process_makes_the_class_images(loaded, photos, tmp_path):
    pack = Pack(loaded, tmp_path / "cache")
    pack.join(job(loaded, photos, tmp_path / "first", 500))
    pack.join(job(loaded, photos, tmp_path / "once", 1, prior=GENERATE)), pack.step()
    (lock,) = (tmp_path / "cache" / "prior").glob("*.lock")
    with locked(lock):
        joining = pack.joining(job(loaded, photos, tmp_path / "second", prior=GENERATE))
        for _ in range(8):
            assert joining.advance() is None
            pack.step()
    steps_until_joined(pack, joining)
    assert len(pack.runs) == 2


def test_a_checkpoint_is_read_beside_the_steps(loaded, photos, tmp_path):
    kept = job(loaded, photos, tmp_path / "out", 4, tmp_path / "checkpoints")
    before = Pack(loaded, batching=ExactBatching())
    run = before.join(kept)
    before.step(), before.step()
    run.save_and_wait()
    pack = Pack(loaded, batching=ExactBatching())
    pack.join(job(loaded, photos, tmp_path / "other", 200, seed=1))
    steps_until_joined(pack, pack.joining(kept))
    again = pack.runs[1]
    assert again.step == 2
    while again in pack.runs:
        pack.step()
    assert equal(again.training, alone(loaded, kept.spec)[0])


def test_work_in_pieces_waits_only_when_it_is_told_to_finish():
    gate = threading.Event()

    def work(thread):
        future = thread.submit(gate.wait)
        while not future.done():
            yield future
        for _ in range(3):
            yield None
        return torch.tensor(1.0)

    pieces = InPieces(work)
    assert pieces.advance(60) is None, "the thread is not so far"
    gate.set()
    assert pieces.finish() == 1
    assert preparing() == []
