"""Validation pictures that jobs of a pack make together are those that each makes alone, in as few calls as allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from null_tracker import NullTracker
from packs_here import double, nothing_is_left_on, prepared, spec_of
from PIL import Image

from lorafleet.bases import find_base
from lorafleet.config import Validation
from lorafleet.errors import DataError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import CapturedCalls
from lorafleet_jobs.train import Pack, TrainJob
from lorafleet_jobs.train.batching import DynamicBatching, ExactBatching, StaticBatching
from lorafleet_jobs.train.previews.pictures_together import PictureMaker
from lorafleet_jobs.train.previews.validate import Validator
from recordable import host_reads

PROMPTS = ("a photo of TOK dog", "TOK dog in the snow", "a drawing of TOK dog")
LONG = "a photo of TOK dog, " + "a " * 90 + "dog"
KINDS = {
    "lora": {"rank": 4, "pivotal": None},
    "tokens": {"rank": 2, "pivotal": {"tokens": 2}},
    "dora": {"rank": 3, "dora": True, "alpha": 1.0},
    "text encoders": {"rank": 4, "pivotal": None, "text_encoder_lora": {"rank": 2}},
    "textual inversion": {"unet_fraction": 0, "pivotal": {"tokens": 1, "fraction": 1.0}},
    "larger": {"rank": 2, "resolution": 48},
}


@pytest.fixture(scope="module", params=["toy-sdxl", "toy-playground"])
def doubled(request):
    return double(LoadedBase.load(find_base(request.param)))


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


def validators(loaded, photos, prompts=PROMPTS):
    """One of each kind of job, as if it had trained."""
    made, draws = [], torch.Generator().manual_seed(0)
    for i, recipe in enumerate(KINDS.values()):
        training = prepared(loaded, spec_of(loaded, photos, 2, seed=i, **recipe))
        for parameter in training.trainable.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype)
        validation = Validation(steps=2, seed=i, prompts=prompts)
        made.append(Validator(training.spec.with_changes(validation=validation), training.prompts))
    return made


def wanted_by(jobs):
    """What they have at their end."""
    return [each for job in jobs for each in (*job.adapted(), *job.words_only()[:1], *job.of_base()[:1])]


def allowing(rows, batching):
    batching.most_rows = rows
    return batching


@pytest.mark.parametrize(
    "batching", [DynamicBatching, lambda: StaticBatching(CapturedCalls(torch.device("cpu")))], ids=["plain", "recorded"]
)
def test_latents_made_together_are_those_made_alone(doubled, photos, batching):
    """In float64, of every kind of job, with prompts of one and of two chunks."""
    wanted = wanted_by(validators(doubled, photos, (*PROMPTS[:1], LONG)))
    together = PictureMaker(doubled, allowing(16, batching()))
    found = dict(together.latents(wanted))
    assert len(found) == len(wanted)
    for picture in wanted:
        ((_, alone),) = PictureMaker(doubled).latents([picture])
        assert float((found[picture] - alone).abs().max() / alone.abs().max()) <= 1e-9
    assert nothing_is_left_on(doubled)


def test_pictures_made_together_are_those_made_alone(loaded, photos):
    wanted = wanted_by(validators(loaded, photos, PROMPTS[:1]))
    made = PictureMaker(loaded, allowing(12, DynamicBatching())).make(wanted)
    for picture, image in zip(wanted, made, strict=True):
        (alone,) = PictureMaker(loaded).make([picture])
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(alone, dtype=int)).max() <= 1
    assert len({image.tobytes() for image in made}) >= 8


@pytest.mark.parametrize(
    ("batching", "rows", "asked"),
    [
        (DynamicBatching, 0, [2] * 12),
        (DynamicBatching, 8, [8, 8, 8]),
        (DynamicBatching, 24, [24]),
        (StaticBatching, 6, [4] * 6),
        (StaticBatching, 16, [16, 8]),
        (ExactBatching, 16, [2] * 12),
    ],
)
def test_no_call_has_more_rows_than_a_training_call_had(loaded, photos, calls, batching, rows, asked):
    wanted = [each for job in validators(loaded, photos)[:4] for each in job.adapted()]
    calls.clear()
    PictureMaker(loaded, allowing(rows, batching())).make(wanted)
    assert calls == [each for each in asked for _ in range(2)], "two steps each"


def test_what_does_not_fit_is_asked_in_halves(loaded, photos, calls):
    def check(module, args):
        if len(args[0]) > 4:
            raise torch.OutOfMemoryError("no room")

    wanted = [each for job in validators(loaded, photos)[:4] for each in job.adapted()][:8]
    calls.clear()
    handle = loaded.unet.register_forward_pre_hook(check)
    try:
        made = PictureMaker(loaded, allowing(16, DynamicBatching())).make(wanted)
    finally:
        handle.remove()
    assert calls == [4] * 8
    assert len(made) == 8


def test_a_recorded_step_of_pictures_reads_nothing_back(loaded, photos):
    batching = allowing(16, StaticBatching(CapturedCalls(torch.device("cpu"))))
    with host_reads() as (found, runs):
        PictureMaker(loaded, batching).make(wanted_by(validators(loaded, photos, PROMPTS[:1])))
    assert found == []
    assert len(runs) >= 6


class Kept(NullTracker):
    def __init__(self):
        self.seen = []

    def image(self, key, step, image, caption=None):
        self.seen.append((key, step, np.asarray(image, dtype=int)))


def pack_of(loaded, photos, folder, count, every=2, **changes):
    """A pack of jobs that show pictures after steps 2 and 4, the last; and what each shows."""
    pack, trackers = Pack(loaded), []
    for i in range(count):
        spec = spec_of(loaded, photos, 4, rank=2, seed=i, batch_size=2, ema=0.9, optimizer="adamw", learning_rate=3e-3)
        validation = Validation(steps=2, every=every, prompts=PROMPTS[:2])
        spec = spec.with_changes(validation=validation, id=f"{i:016}", **changes)
        trackers.append(Kept())
        pack.join(TrainJob(spec, folder / str(i), trackers[-1], lambda step, loss: None))
    return pack, trackers


def run(pack):
    ended = {}
    while pack.runs:
        ended |= {int(run.job.spec.id): end for run, end in pack.step()}
    return ended


def test_a_pack_shows_each_job_s_pictures_as_if_it_were_alone(loaded, photos, tmp_path, calls):
    pack, trackers = pack_of(loaded, photos, tmp_path / "pack", 3)
    ended = run(pack)
    assert max(calls) == 6, "pictures have no more rows than the three jobs' two each"
    for i in range(3):
        alone, (tracker, *_) = pack_of(loaded, photos, tmp_path / f"alone{i}", i + 1)
        alone.runs, tracker = alone.runs[i:], alone.runs[i].job.tracker
        first, second = alone.runs[0].validator.names
        lonely = run(alone)
        assert [seen[:2] for seen in trackers[i].seen] == [
            (f"{first}/training photos", 0),
            *(
                (f"{name}/{shows}", step)
                for step, sets in {
                    0: ("base", "by step"),
                    2: ("by step",),
                    4: ("words only", "by step", "adapter"),
                }.items()
                for shows in sets
                for name in (first, second)
            ),
        ]
        for (*_, ours), (*_, theirs) in zip(trackers[i].seen, tracker.seen, strict=True):
            assert np.abs(ours - theirs).max() <= 1
        previews = [np.asarray(Image.open(end.path / "preview.png"), dtype=int) for end in (ended[i], lonely[i])]
        assert np.abs(previews[0] - previews[1]).max() <= 1


def test_a_job_whose_picture_cannot_be_made_leaves_alone(loaded, photos, tmp_path):
    pack, trackers = pack_of(loaded, photos, tmp_path, 3)
    pack.runs[1].validator.texts = ("a photo of TOK dog", "very " * 2000)
    ended = run(pack)
    assert isinstance(ended[1], DataError)
    assert "shorten it" in str(ended[1])
    assert {len(trackers[i].seen) for i in (0, 2)} == {1 + 4 + 2 + 6}
    assert all((tmp_path / str(i) / "preview.png").exists() for i in (0, 2))


def test_a_job_that_comes_back_after_its_last_step_takes_no_further(loaded, photos, tmp_path):
    """Memory may have run out over its last pictures."""
    pack, _ = pack_of(loaded, photos, tmp_path, 1)
    (first,) = pack.runs
    for _ in range(3):
        pack.step()
    pack._outcomes([first])
    first.stepped(1.0)
    assert first.done
    bundle = run(pack)[0]
    assert (bundle.path / "preview.png").exists()
    assert len(first.progress.losses) == 4
