"""What depends on the base alone is done once for all jobs of a pack, and comes out as each job would have made it."""

import itertools

import numpy as np
import pytest
from packs_here import alone, compare, double, prepared, spec_of

from lorafleet.bases import find_base
from lorafleet.config import Validation
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import CapturedCalls
from lorafleet_jobs.train.batching import DynamicBatching, ExactBatching, StaticBatching
from lorafleet_jobs.train.pack import train_step
from lorafleet_jobs.train.previews.pictures_together import PictureMaker
from lorafleet_jobs.train.previews.validate import Validator


@pytest.fixture(scope="module")
def loaded():
    return LoadedBase.load(find_base("toy-playground"))


def validator(loaded, photos, adapter="rex", validation=None, **recipe):
    training = prepared(loaded, spec_of(loaded, photos, 2, rank=2, **recipe))
    spec = training.spec.with_changes(adapter=adapter, validation=Validation(**{"steps": 2} | (validation or {})))
    return Validator(spec, training.prompts)


def same(one, other):
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


def test_the_base_s_pictures_are_made_once_for_all_jobs_of_a_class(loaded, photos, calls):
    maker, first = PictureMaker(loaded), validator(loaded, photos, pivotal=None)
    made = maker.make([*first.of_base(), *first.words_only()])
    taken = len(calls)
    second = validator(loaded, photos, seed=7, pivotal=None)
    assert same(maker.make([*second.of_base(), *second.words_only()]), made)
    assert len(calls) == taken
    assert same(PictureMaker(loaded).make(first.words_only()), made[1:])
    assert not same(made[:1], made[1:])


def test_a_learned_token_s_picture_is_the_job_s_own(loaded, photos, calls):
    maker = PictureMaker(loaded)
    one, other = (validator(loaded, photos, seed=seed, pivotal={"tokens": 1}) for seed in (1, 2))
    made = maker.make(one.words_only())
    taken = len(calls)
    assert not same(maker.make(other.words_only()), made)
    assert len(calls) > taken


def test_another_size_seed_or_prompt_is_another_picture(loaded, photos, calls):
    maker, prompts = PictureMaker(loaded), ["a photo of TOK dog", "a photo of TOK dog in the snow"]
    for recipe, own in itertools.product([{}, {"resolution": 48}], [{"seed": 0}, {"seed": 1}, {"steps": 3}]):
        maker.make(validator(loaded, photos, validation=own | {"prompts": prompts}, **recipe).of_base())
    assert sum(calls) == 2 * 2 * 2 * (2 + 2 + 3), "two rows a step, two prompts, two sizes"


@pytest.mark.parametrize(
    "recipe",
    [{"pivotal": None}, {"pivotal": None, "text_encoder_lora": {"rank": 2}}, {"pivotal": {"tokens": 1}}],
    ids=["UNet", "text encoders", "tokens"],
)
def test_captions_of_the_class_are_encoded_once_without_the_job_s_adapter(loaded, photos, recipe):
    training = prepared(loaded, spec_of(loaded, photos, 2, rank=2, **recipe))
    seen = []
    encoder = loaded.prompts.encoders[0]
    handle = encoder.register_forward_hook(lambda module, args, output: seen.append(1))
    try:
        first = training.prompts.of_base(["a photo of a dog", "", "a photo of a dog"])
        taken = len(seen)
        again = training.prompts.of_base(["", "a photo of a dog"])
        assert len(seen) == taken
        training.prompts.of_base(["a photo of TOK dog"])
        training.prompts.of_base(["a photo of TOK dog"])
        assert len(seen) - taken == (2 if recipe["pivotal"] else 1), "a token that is still learned is not remembered"
    finally:
        handle.remove()
    right = training.prompts.encode(["a photo of a dog", ""], weight=0)
    for ours in (first.context[:2], again.context.flip(0)):
        assert np.allclose(ours.detach(), right.context.detach(), atol=1e-5)


PRIOR = {"mode": "predict", "batch_size": 2}
JOBS = (
    {"batch_size": 1, "pivotal": None},
    {"batch_size": 2, "pivotal": {"tokens": 2}},
    {"batch_size": 1, "pivotal": {"tokens": 1}, "prior": PRIOR | {"prompt": "a photo of TOK dog"}},
    {"batch_size": 1, "pivotal": None, "text_encoder_lora": {"rank": 2}, "prior": PRIOR | {"prompt": "an animal"}},
    {"batch_size": 1, "pivotal": None, "prior": PRIOR | {"batch_size": 1}},
    {"batch_size": 1, "pivotal": None, "prior": None},
)


@pytest.mark.parametrize(
    ("batching", "asked"),
    [(DynamicBatching, [1, 1, 2, 4, 8, 9]), (ExactBatching, [1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4]), (None, None)],
    ids=["shared", "exact", "recorded"],
)
def test_the_base_s_own_predictions_of_a_pack_are_asked_in_one_call_for_each_shape(photos, batching, asked):
    """And each job learns what it learns alone, also where its class prompt has a token that it is still learning."""
    loaded, seen = double(LoadedBase.load(find_base("toy-playground"))), []
    specs = [spec_of(loaded, photos, 3, rank=2, seed=i, **{"prior": PRIOR} | job) for i, job in enumerate(JOBS)]
    jobs = [prepared(loaded, spec) for spec in specs]
    plan = StaticBatching(CapturedCalls(loaded.device)) if batching is None else batching()
    handle = loaded.unet.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    for step in (1, 2, 3):
        assert all(isinstance(loss, float) for loss in train_step([(job, step) for job in jobs], plan))
        if step == 1 and asked is not None:
            assert sorted(seen) == asked
    handle.remove()
    for spec, job in zip(specs, jobs, strict=True):
        compare(job, alone(loaded, spec)[0], 1e-9)
