"""What the jobs of a pack have each for itself, and what a shared call of the base does as each job's recipe says."""

from __future__ import annotations

import random

import pytest

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.loaded import LoadedBase
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train.optimizers import adaptive_rate
from lorafleet_jobs.train.pack import train_step, train_step_alone
from lorafleet_jobs.train.training import Training


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), random.Random(3)
    for i in range(2):
        render(random_scene(unseen_identity(0, "dog"), rng), 32).save(folder / f"{i}.png")
    return folder


def prepared(loaded, photos, **recipe):
    images = tuple(ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(photos / f"{i}.png")) for i in range(2))
    spec = JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base=loaded.base.name, folder=str(photos),
        images=images, class_noun="dog", instance_prompt="a photo of TOK dog", steps=20, validation=Validation(),
        dataset_fingerprint="", recipe=Recipe(**{"rank": 2, "batch_size": 1, "pivotal": None} | recipe),
    )  # fmt: skip
    return Training.prepare(spec, loaded)


def test_each_job_has_a_prodigy_of_its_own(loaded, photos):
    """With such `d_coef` both d have grown after five steps, and differ; with one for all they would be equal."""
    recipes = [{"optimizer_options": {"d_coef": coefficient}} for coefficient in (100.0, 1000.0)]
    together = [prepared(loaded, photos, **recipe) for recipe in recipes]
    alone = [prepared(loaded, photos, **recipe) for recipe in recipes]
    for step in range(1, 6):
        train_step([(training, step) for training in together])
        for training in alone:
            train_step_alone(training, step)
    loaded.clear()
    slow, fast = (adaptive_rate(training.optimizer) for training in together)
    assert fast > 5 * slow > 5e-5
    assert [slow, fast] == pytest.approx([adaptive_rate(training.optimizer) for training in alone], rel=1e-3)


def test_checkpointed_jobs_recompute_each_block_and_others_do_not(loaded, photos):
    """Both train beside each other, in calls of their own; under checkpointing a block is run again to go backwards."""
    calls = []
    block = loaded.unet.mid_block.attentions[0].transformer_blocks[0]
    handle = block.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    jobs = [prepared(loaded, photos, gradient_checkpointing=on, seed=i) for i, on in enumerate((True, False, True))]
    try:
        train_step([(job, 1) for job in jobs])
    finally:
        handle.remove()
        loaded.clear()
    assert sorted(calls) == [1, 2, 2]
