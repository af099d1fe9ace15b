"""Whether an adapter learned anything that can be seen: measured on its last pictures, after a real training."""

from __future__ import annotations

import numpy as np
import pytest
from packs_here import spec_of, train_job
from PIL import Image

from lorafleet.bases import find_base
from lorafleet.bundle.change import FROM_BASE, FROM_UNTRAINED, FROM_WORDS, is_unchanged, unchanged_note
from lorafleet.config import PivotalSpec, Validation
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train import Pack, TrainJob
from lorafleet_jobs.train.previews.validate import BETWEEN, mean_difference

CHANGES = (FROM_BASE, FROM_WORDS, FROM_UNTRAINED)
SIDE = 128


class Kept:
    """A tracker that keeps the numbers of each step."""

    def __init__(self):
        self.values = {}

    def metrics(self, step, values):
        self.values.setdefault(step, {}).update(values)

    def image(self, key, step, image, caption=None):
        pass


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


def spec(loaded, photos, steps, **recipe):
    shown = Validation(prompts=("a photo of TOK dog",), steps=3)
    recipe = {"optimizer": "adamw", "rank": 4, "batch_size": 2, **recipe}
    return spec_of(loaded, photos, steps, **recipe).with_changes(validation=shown)


@pytest.mark.parametrize("pivotal", [None, PivotalSpec(tokens=1)], ids=["a plain word", "a learned word"])
def test_two_steps_at_a_rate_of_nothing_are_told_from_a_training(loaded, photos, tmp_path, pivotal):
    tracker = Kept()
    idle = train_job(
        spec(loaded, photos, 2, learning_rate=1e-9, pivotal=pivotal),
        loaded,
        tmp_path / "idle",
        tracker,
        lambda *_: None,
    )
    assert is_unchanged(idle.card.metrics)
    assert "of 255 on average" in unchanged_note(idle.card.metrics)
    assert {key: tracker.values[2][key] for key in CHANGES} == {key: idle.card.metrics[key] for key in CHANGES}
    learned = train_job(
        spec(loaded, photos, 12, learning_rate=0.02, pivotal=pivotal), loaded, tmp_path / "learned", Kept(),
        lambda *_: None,
    )  # fmt: skip
    assert not is_unchanged(learned.card.metrics)
    assert unchanged_note(learned.card.metrics) == ""
    if pivotal is None:  # the plain word is as it was
        assert learned.card.metrics[FROM_WORDS] == learned.card.metrics[FROM_UNTRAINED]


def test_learned_words_alone_count_as_learned(loaded, photos, tmp_path):
    recipe = {"unet_fraction": 0, "pivotal": PivotalSpec(tokens=2, fraction=1.0), "learning_rate": 0.5}
    found = train_job(
        spec(loaded, photos, 12, **recipe), loaded, tmp_path / "out", Kept(), lambda *_: None
    ).card.metrics
    assert found[FROM_WORDS] == 0
    assert not is_unchanged(found)


def test_the_distances_are_those_of_the_bundles_preview(loaded, photos, tmp_path):
    bundle = train_job(spec(loaded, photos, 3, learning_rate=0.02), loaded, tmp_path / "out", Kept(), lambda *_: None)
    base, words, adapted = (
        np.asarray(Image.open(bundle.path / "preview.png").convert("RGB"))[:, x : x + SIDE].astype(float)
        for x in range(0, 3 * (SIDE + BETWEEN), SIDE + BETWEEN)
    )
    assert bundle.card.metrics[FROM_BASE] == pytest.approx(np.abs(adapted - base).mean())
    assert bundle.card.metrics[FROM_WORDS] == pytest.approx(np.abs(adapted - words).mean())


def test_a_resumed_job_is_compared_with_what_it_was_before_its_first_step(loaded, photos, tmp_path):
    recipe = {"learning_rate": 0.02, "pivotal": PivotalSpec(tokens=1)}

    def job(name):
        return TrainJob(
            spec(loaded, photos, 4, **recipe), tmp_path / name, Kept(), lambda *_: None,
            checkpoints=tmp_path / "checkpoints" / name,
        )  # fmt: skip

    pack = Pack(loaded)
    interrupted = pack.join(job("resumed"))
    for _ in range(3):
        pack.step()
    interrupted.save_and_wait()
    interrupted.close()
    found = []
    for name in ("resumed", "whole"):
        pack = Pack(loaded)
        pack.join(job(name))
        ends = []
        while not ends:
            ends = pack.step()
        found.append(ends[0][1].card.metrics)
    assert [found[0][key] for key in CHANGES] == pytest.approx([found[1][key] for key in CHANGES])


def test_the_mean_is_over_all_pictures_and_pixels():
    black, grey = Image.new("RGB", (4, 2)), Image.new("RGB", (4, 2), (30, 30, 30))
    assert mean_difference([black, black], [black, grey]) == 15
    assert is_unchanged({}) is False, "an adapter of another release, or an imported one"
