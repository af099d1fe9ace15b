"""What the jobs of a pack have each for itself, and what a shared call of the base does as each job's recipe says."""

from __future__ import annotations

import pytest
from packs_here import prepared, spec_of

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.optimizers import adaptive_rate
from lorafleet_jobs.train.pack import train_step, train_step_alone


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-sdxl"))


def training(loaded, photos, **recipe):
    return prepared(loaded, spec_of(loaded, photos, 20, **{"rank": 2, "batch_size": 1, "pivotal": None} | recipe))


def test_each_job_has_a_prodigy_of_its_own(loaded, photos):
    """With such `d_coef` both d have grown after five steps, and differ; with one for all they would be equal."""
    recipes = [{"optimizer_options": {"d_coef": coefficient}} for coefficient in (100.0, 1000.0)]
    together = [training(loaded, photos, **recipe) for recipe in recipes]
    alone = [training(loaded, photos, **recipe) for recipe in recipes]
    for step in range(1, 6):
        train_step([(job, step) for job in together])
        for job in alone:
            train_step_alone(job, step)
    slow, fast = (adaptive_rate(job.optimizer) for job in together)
    assert fast > 5 * slow > 5e-5
    assert [slow, fast] == pytest.approx([adaptive_rate(job.optimizer) for job in alone], rel=1e-3)


def test_checkpointed_jobs_recompute_each_block_and_others_do_not(loaded, photos):
    """Both train beside each other, in calls of their own; under checkpointing a block is run again to go backwards."""
    calls = []
    block = loaded.unet.mid_block.attentions[0].transformer_blocks[0]
    handle = block.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    jobs = [training(loaded, photos, gradient_checkpointing=on, seed=i) for i, on in enumerate((True, False, True))]
    try:
        train_step([(job, 1) for job in jobs])
    finally:
        handle.remove()
    assert sorted(calls) == [1, 2, 2]
