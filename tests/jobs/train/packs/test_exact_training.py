"""`resources.exact`: no bit of a job depends on what else is trained, because each job's calls are its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs_here import BASES, alone, equal, prepared, spec_of, together

from lorafleet.bases import find_base
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.batching import ExactBatching
from lorafleet_jobs.train.pack import train_step

RECIPES = (
    {"rank": 4, "batch_size": 2, "text_encoder_lora": {"rank": 2}},
    {"rank": 2, "batch_size": 2, "dora": True, "pivotal": {"tokens": 2}, "caption": {"dropout": 0.5}},
    {"rank": 4, "batch_size": 1, "gradient_accumulation": 2},
    {"rank": 1, "batch_size": 2, "targets": "attn+ff", "optimizer": "adamw"},
    {"rank": 3, "batch_size": 2, "seed": 7},
)
STEPS = 3


@pytest.fixture(scope="module", params=BASES)
def loaded(request):
    return LoadedBase.load(find_base(request.param))


@pytest.fixture(scope="module")
def lonely(loaded, photos):
    """Each job without a pack: trainings and losses."""
    return [alone(loaded, spec_of(loaded, photos, STEPS, **recipe)) for recipe in RECIPES]


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(joins=st.lists(st.integers(0, 4), min_size=5, max_size=5), order=st.permutations(range(5)))
def test_every_job_comes_out_the_same_to_the_bit_whoever_joins_and_leaves(loaded, photos, lonely, joins, order):
    specs = [spec_of(loaded, photos, STEPS, **RECIPES[i]) for i in order]
    trainings, losses = together(loaded, specs, joins, ExactBatching())
    for i, training, trace in zip(order, trainings, losses, strict=True):
        assert trace == lonely[i][1]
        assert equal(training, lonely[i][0])


def test_in_shared_calls_bits_differ(loaded, photos, lonely):
    """So the test above can fail; to rounding the results agree."""
    specs = [spec_of(loaded, photos, STEPS, **recipe) for recipe in RECIPES]
    trainings, _ = together(loaded, specs, [0] * len(specs))
    assert not all(equal(training, alone_) for training, (alone_, _) in zip(trainings, lonely, strict=True))


@pytest.mark.parametrize("poison", ["rate", "image"])
def test_a_poisoned_job_changes_no_bit_of_the_others(loaded, photos, poison):
    good = [prepared(loaded, spec_of(loaded, photos, rank=2, batch_size=2, seed=seed)) for seed in (1, 2)]
    jobs = [good[0], poisoned(loaded, photos, poison), good[1]]
    reasons = []
    for step in (1, 2, 3, 4):
        outcomes = train_step([(job, step) for job in jobs], ExactBatching())
        reasons += [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        jobs = [job for job, outcome in zip(jobs, outcomes, strict=True) if isinstance(outcome, float)]
    assert [type(reason) for reason in reasons] == [NonFiniteError]
    for training in good:
        assert equal(training, alone(loaded, training.spec)[0])


def poisoned(loaded, photos, poison):
    """A job whose learning rate has exploded, or with a picture that is not a number."""
    bad = prepared(loaded, spec_of(loaded, photos, rank=2, batch_size=2, optimizer="adamw", seed=5))
    if poison == "rate":
        with torch.no_grad():
            bad.trainable.low_rank["unet"].flat.fill_(1e30)
    else:
        picture = bad.dataset.batch(0)
        bad.dataset.batch = lambda index: type(picture)(**{**vars(picture), "z": picture.z * float("nan")})
    return bad
