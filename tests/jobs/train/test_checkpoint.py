"""A job that was stopped and resumed is the job that was not, to the bit; a damaged checkpoint is never trusted."""

from __future__ import annotations

import random

import pytest
import torch
from null_tracker import NullTracker

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.loaded import LoadedBase
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train import Pack, TrainJob
from lorafleet_jobs.train import job_run as run_module
from lorafleet_jobs.train.checkpoint import KEPT, REST, TENSORS, CheckpointWriter, Snapshot, resume
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.progress import History
from lorafleet_jobs.train.training import Training

STEPS = 6
RECIPES = {
    "prodigy, pivotal": {},
    "adamw, dora, text encoders": {"optimizer": "adamw", "dora": True, "text_encoder_lora": True, "pivotal": None},
    "lion, ema": {"optimizer": "lion", "ema": 0.9, "lr_scheduler": "cosine", "warmup_steps": 2},
    "adafactor, accumulated": {"optimizer": "adafactor", "gradient_accumulation": 2},
    "dropout, captions, crops": {"dropout": 0.2, "crop": "random", "flip": True, "caption": {"dropout": 0.5}},
}


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-playground"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), random.Random(3)
    for i in range(3):
        render(random_scene(unseen_identity(0, "dog"), rng), 64).resize((48, 64)).save(folder / f"{i}.png")
    return folder


def fresh(loaded, photos, job="0" * 16, **recipe):
    images = tuple(ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(photos / f"{i}.png")) for i in range(3))
    spec = JobSpec(
        id=job, submission="test", subject="rex", adapter="rex", base=loaded.base.name, folder=str(photos),
        images=images, class_noun="dog", instance_prompt="a photo of TOK dog",
        recipe=Recipe(**{"rank": 2, "batch_size": 2} | recipe), steps=STEPS, validation=Validation(),
        dataset_fingerprint="",
    )  # fmt: skip
    return Training.prepare(spec, loaded)


def run(training, first, last):
    return [train_step_alone(training, step) for step in range(first, last + 1)]


def save(folder, training, history):
    return Snapshot.of(training, history).write(folder)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop", [2, 4])  # before the pivot and after it
def test_a_resumed_job_goes_on_to_the_bit(loaded, photos, tmp_path, recipe, stop):
    whole = fresh(loaded, photos, **recipe)
    losses = run(whole, 1, STEPS)
    half = fresh(loaded, photos, **recipe)
    save(tmp_path, half, History(stop, run(half, 1, stop), 12.5))
    later = fresh(loaded, photos, **recipe)
    assert resume(tmp_path, later) == History(stop, losses[:stop], 12.5)
    assert run(later, stop + 1, STEPS) == losses[stop:]
    with whole.ema_swapped_in(), later.ema_swapped_in():
        for a, b in zip(whole.trainable.parameters(), later.trainable.parameters(), strict=True):
            assert torch.equal(a, b)
    assert later.trainable.frozen == whole.trainable.frozen


def test_tokens_survive_and_stay_frozen_after_the_pivot(loaded, photos, tmp_path):
    """The reference loses learned tokens on resume, and trains them again if the pivot has passed (P1, P3)."""
    half = fresh(loaded, photos)
    save(tmp_path, half, History(4, run(half, 1, 4)))
    later = fresh(loaded, photos)
    resume(tmp_path, later)
    kept = [vectors.detach().clone() for vectors in half.trainable.vectors]
    assert all(torch.equal(a, b) for a, b in zip(later.trainable.vectors, kept, strict=True))
    run(later, 5, STEPS)
    assert all(torch.equal(a, b) for a, b in zip(later.trainable.vectors, kept, strict=True))


@pytest.mark.parametrize("damage", ["cut", "flipped", "no card", "not json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(loaded, photos, tmp_path, damage):
    training = fresh(loaded, photos)
    run(training, 1, 2)
    save(tmp_path, training, History(2, [0.5, 0.25]))
    run(training, 3, 3)
    newest = save(tmp_path, training, History(3, [0.5, 0.25, 0.125]))
    data = (newest / TENSORS).read_bytes()
    if damage == "cut":
        (newest / TENSORS).write_bytes(data[:-9])
    elif damage == "flipped":
        (newest / TENSORS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "no card":
        (newest / REST).unlink()
    else:
        (newest / REST).write_text("{")
    assert resume(tmp_path, fresh(loaded, photos)) == History(2, [0.5, 0.25])


def test_a_checkpoint_that_holds_what_is_no_number_is_passed_over_for_the_one_before(loaded, photos, tmp_path):
    training = fresh(loaded, photos)
    history = History(1, run(training, 1, 1))
    save(tmp_path, training, history)
    with torch.no_grad():
        training.trainable.parameters()[0][-1] = float("nan")
    save(tmp_path, training, History(2, [*history.losses, 0.5]))
    assert resume(tmp_path, fresh(loaded, photos)) == history


def test_another_job_s_checkpoint_is_not_taken(loaded, photos, tmp_path):
    training = fresh(loaded, photos)
    save(tmp_path, training, History(1, run(training, 1, 1)))
    assert resume(tmp_path, fresh(loaded, photos, job="1" * 16)) == History()
    assert resume(tmp_path / "nowhere", fresh(loaded, photos)) == History()


def test_the_last_two_are_kept(loaded, photos, tmp_path):
    training = fresh(loaded, photos)
    for step in range(1, 5):
        save(tmp_path, training, History(step, run(training, step, step)))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000003", "step-000004"]
    assert KEPT == 2


def test_a_checkpoint_is_of_its_step_though_training_goes_on(loaded, photos, tmp_path):
    half, whole = fresh(loaded, photos, ema=0.9), fresh(loaded, photos, ema=0.9)
    losses = run(half, 1, 2)
    snapshot = Snapshot.of(half, History(2, losses))
    run(half, 3, STEPS)
    snapshot.write(tmp_path)
    resumed = fresh(loaded, photos, ema=0.9)
    assert resume(tmp_path, resumed).step == 2
    assert run(whole, 1, STEPS)[2:] == run(resumed, 3, STEPS)


def test_what_could_not_be_written_is_told_at_the_next_checkpoint(loaded, photos, tmp_path):
    training, place = fresh(loaded, photos), tmp_path / "full"
    place.write_text("in the way")
    writer = CheckpointWriter(place)
    writer.save(training, History(1, run(training, 1, 1)))
    with pytest.raises(OSError, match="full"):
        writer.save(training, History(1, [0.5]))
    place.unlink()
    writer.save(training, History(1, [0.5]))
    writer.wait()
    assert resume(place, fresh(loaded, photos)).losses == [0.5]
    place.rename(tmp_path / "gone")
    place.write_text("in the way again")
    writer.save(training, History(1, [0.5]))
    writer.close()
    with pytest.raises(OSError, match="full"):
        writer.save_now(training, History(1, [0.5]))
    place.unlink()
    writer.save_now(training, History(1, [0.25]))
    assert resume(place, fresh(loaded, photos)).losses == [0.25], "also after it was closed"


def test_a_pack_that_was_killed_is_taken_up_by_another(loaded, photos, tmp_path, monkeypatch):
    """The bundle is the one that an uninterrupted run writes, and its checkpoints are gone."""
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", 0.0)
    spec = fresh(loaded, photos).spec.with_changes(validation=Validation(steps=1))
    told = []

    def job(name, **more):
        return TrainJob(spec, tmp_path / name, NullTracker(), lambda step, loss: told.append((step, loss)), **more)

    whole = Pack(loaded)
    whole.join(job("whole"))
    straight = [end for _ in range(STEPS) for _, end in whole.step()]
    first, told = told, []
    killed = Pack(loaded)
    killed.join(job("halves", checkpoints=tmp_path / "half"))
    for _ in range(4):
        assert killed.step() == []
    second = Pack(loaded)
    assert second.join(job("halves", checkpoints=tmp_path / "half")).step == 4
    halves = [end for _ in range(STEPS - 4) for _, end in second.step()]
    assert told == first, "the curve has no seam"
    (one,), (two,) = straight, halves
    for a, b in ((one.weights(), two.weights()), (one.embeddings(), two.embeddings())):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "half").exists()
