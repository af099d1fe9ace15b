"""A pack changes nothing: every job in it comes out as it does alone, whoever joins, leaves or breaks beside it."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorafleet.bases import find_base
from lorafleet.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train.calls import SeatedCalls, SharedCalls
from lorafleet_jobs.train.pack import step_alone, step_together
from lorafleet_jobs.train.training import Training

EXACT, CLOSE = 1e-9, 1e-3
BASES = ("toy-sdxl", "toy-playground")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), random.Random(3)
    for i, size in enumerate(((48, 48), (64, 40), (40, 56))):
        render(random_scene(unseen_identity(0, "dog"), rng), 64).resize(size).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module", params=BASES)
def doubled(request):
    """A base that computes in float64."""
    warm = LoadedBase.load(find_base(request.param))
    for model in (warm.unet, *warm.prompts.encoders):
        model.double()
    return warm


@pytest.fixture(scope="module", params=BASES)
def warm(request):
    return LoadedBase.load(find_base(request.param))


def spec_of(warm, photos, steps=4, **recipe):
    images = tuple(ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(photos / f"{i}.png")) for i in range(3))
    return JobSpec(
        id="0" * 16, submission="test", subject="rex", adapter="rex", base=warm.base.name, folder=str(photos),
        images=images, class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(**recipe), steps=steps,
        validation=Validation(), dataset_fingerprint="",
    )  # fmt: skip


def prepared(warm, spec):
    """A training whose parameters have the base's own precision."""
    training = Training.prepare(spec, warm)
    for parameter in training.learned.parameters():
        parameter.data = parameter.data.to(warm.unet.dtype)
    return training


def alone(warm, spec):
    training = prepared(warm, spec)
    return training, [step_alone(training, step) for step in range(1, spec.steps + 1)]


def together(warm, specs, joins, calls=None):
    """Each job from its own tick on until its steps are done; a tick is one step of the pack."""
    trainings = [prepared(warm, spec) for spec in specs]
    losses, calls = [[] for _ in specs], calls or SharedCalls()
    for tick in range(max(join + spec.steps for join, spec in zip(joins, specs, strict=True))):
        here = [i for i, join in enumerate(joins) if join <= tick < join + specs[i].steps]
        outcomes = step_together([(trainings[i], tick - joins[i] + 1) for i in here], calls)
        for i, loss in zip(here, outcomes, strict=True):
            losses[i].append(loss)
    warm.clear()
    return trainings, losses


def compare(one, other, bar):
    for a, b in zip(one.learned.parameters(), other.learned.parameters(), strict=True):
        assert (a - b).norm() <= bar * b.norm()


RECIPES = st.fixed_dictionaries(
    {
        "rank": st.sampled_from([1, 2, 4]),
        "dora": st.booleans(),
        "pivotal": st.sampled_from(
            [None, {"tokens": 1, "fraction": 0.5}, {"tokens": 2, "abstractions": ["TOK", "TOK2"]}]
        ),
        "batch_size": st.integers(1, 3),
        "gradient_accumulation": st.sampled_from([1, 1, 2]),
        "optimizer": st.sampled_from(["prodigy", "adamw", "lion"]),
        "lr_scheduler": st.sampled_from(["constant", "cosine"]),
        "text_encoder_lora": st.sampled_from([None, None, {"rank": 2}]),
        "alpha": st.sampled_from([None, 3.0]),
        "min_snr_gamma": st.sampled_from([None, 5.0]),
        "buckets": st.booleans(),
        "prior": st.sampled_from([None, None, {"mode": "predict"}]),
        "targets": st.sampled_from(["attn", "attn", "attn+ff"]),
        "gradient_checkpointing": st.booleans(),
        "ema": st.sampled_from([None, 0.9]),
        "seed": st.integers(0, 9),
    }
)
PACKS = st.lists(st.tuples(RECIPES, st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=6)
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def check_pack(warm, photos, pack, bar):
    specs = [spec_of(warm, photos, steps, **recipe) for recipe, _, steps in pack]
    trainings, losses = together(warm, specs, [join for _, join, _ in pack])
    for spec, training, trace in zip(specs, trainings, losses, strict=True):
        lonely, expected = alone(warm, spec)
        assert trace == pytest.approx(expected, rel=bar, abs=bar)
        compare(training, lonely, bar)


@settings(max_examples=4, deadline=None, suppress_health_check=QUIET)
@given(pack=PACKS)
def test_a_pack_changes_nothing_in_float64(doubled, photos, pack):
    check_pack(doubled, photos, pack, EXACT)


@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(pack=PACKS)
def test_a_pack_changes_nothing_to_speak_of_in_float32(warm, photos, pack):
    check_pack(warm, photos, pack, CLOSE)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=25, deadline=None, suppress_health_check=QUIET)
@given(pack=st.lists(st.tuples(RECIPES, st.integers(0, 12), st.just(20)), min_size=2, max_size=6))
def test_a_pack_changes_nothing_over_twenty_steps(doubled, photos, pack):
    check_pack(doubled, photos, pack, EXACT)


def test_two_equal_jobs_in_one_pack_come_out_identical(warm, photos):
    spec = spec_of(warm, photos, rank=4, batch_size=2)
    other = spec_of(warm, photos, rank=4, batch_size=2, dora=True, seed=3)
    (one, _, two), losses = together(warm, [spec, other, spec], [0, 0, 0])
    assert losses[0] == losses[2]
    assert all(torch.equal(a, b) for a, b in zip(one.learned.parameters(), two.learned.parameters(), strict=True))


def test_one_call_of_the_base_for_jobs_of_one_shape_and_turns_for_others(warm, photos):
    calls = []
    handle = warm.unet.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    specs = [spec_of(warm, photos, 1, rank=2, batch_size=size) for size in (2, 2, 1, 2)]
    together(warm, specs, [0, 0, 0, 0])
    handle.remove()
    assert sorted(calls) == [1, 6]


def poisoned(warm, photos, poison):
    """A job whose learning rate has exploded, or with a picture that is not a number."""
    bad = prepared(warm, spec_of(warm, photos, rank=2, batch_size=2, optimizer="adamw", seed=5))
    if poison == "rate":
        with torch.no_grad():
            bad.learned.low_rank["unet"].flat.fill_(1e30)
    elif poison == "image":
        picture = bad.dataset.batch(0)
        bad.dataset.batch = lambda index: type(picture)(**{**vars(picture), "z": picture.z * float("nan")})
    return bad


def beside(warm, photos, poison, calls):
    """Two good jobs after four steps with a third beside them, which leaves if it breaks."""
    good = [prepared(warm, spec_of(warm, photos, rank=2, batch_size=2, seed=seed)) for seed in (1, 2)]
    jobs = [good[0], poisoned(warm, photos, poison), good[1]]
    reasons = []
    for step in (1, 2, 3, 4):
        outcomes = step_together([(job, step) for job in jobs], calls)
        reasons += [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        jobs = [job for job, outcome in zip(jobs, outcomes, strict=True) if isinstance(outcome, float)]
    warm.clear()
    return good, reasons


@pytest.mark.parametrize("poison", ["rate", "image"])
def test_a_poisoned_job_leaves_and_the_others_come_out_the_same(warm, photos, poison):
    good, (reason,) = beside(warm, photos, poison, SharedCalls())
    assert isinstance(reason, NonFiniteError)
    assert "lower learning_rate" in str(reason)
    for training in good:
        compare(training, alone(warm, training.spec)[0], CLOSE)
        assert all(torch.isfinite(parameter).all() for parameter in training.learned.parameters())


@pytest.mark.parametrize("poison", ["rate", "image"])
def test_in_seats_a_poisoned_job_leaves_no_bit_changed(warm, photos, poison):
    """Its seat is parked, so that no shape changes."""
    good, reasons = beside(warm, photos, poison, SeatedCalls(warm, 3))
    healthy, nothing = beside(warm, photos, None, SeatedCalls(warm, 3))
    assert (len(reasons), len(nothing)) == (1, 0)
    for one, other in zip(good, healthy, strict=True):
        assert equal(one, other)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.learned.parameters(), other.learned.parameters(), strict=True))


SEATED = (
    {"rank": 4, "batch_size": 2, "text_encoder_lora": {"rank": 2}},
    {"rank": 2, "batch_size": 2, "dora": True, "pivotal": {"tokens": 2}, "caption": {"dropout": 0.5}},
    {"rank": 4, "batch_size": 1, "gradient_accumulation": 2},
    {"rank": 1, "batch_size": 2, "targets": "attn+ff", "optimizer": "adamw"},
    {"rank": 3, "batch_size": 2, "seed": 7},
)


@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(joins=st.lists(st.integers(0, 4), min_size=5, max_size=5), order=st.permutations(range(5)))
def test_in_seats_every_job_comes_out_the_same_to_the_bit_whoever_joins_and_leaves(warm, photos, joins, order):
    specs = [spec_of(warm, photos, 3, **SEATED[i]) for i in order]
    trainings, losses = together(warm, specs, joins, seats(warm))
    for spec, training, trace in zip(specs, trainings, losses, strict=True):
        (lonely,), (expected,) = together(warm, [spec], [0], seats(warm))
        assert trace == expected
        assert equal(training, lonely)


def seats(warm):
    return SeatedCalls(warm, 4, rank=4)


def test_a_compiled_pack_is_not_compiled_again_when_jobs_join_and_leave(photos):
    """`aot_eager` traces as `inductor` does, and needs no C++ compiler."""
    warm = LoadedBase.load(find_base("toy-sdxl"))
    calls = SeatedCalls(warm, 3, rank=4, compiled=True, backend="aot_eager")
    recipes = ({"rank": 4}, {"rank": 2, "dora": True}, {"rank": 1, "pivotal": {"tokens": 1}}, {"rank": 3, "alpha": 1})
    specs = [spec_of(warm, photos, 4, batch_size=2, **recipe) for recipe in recipes]
    first, rest = [(prepared(warm, spec), 1) for spec in specs[:2]], [prepared(warm, spec) for spec in specs]
    step_together(first, calls)
    with torch.compiler.set_stance("fail_on_recompile"):
        step_together([(rest[0], 1)], calls)
        step_together([(rest[0], 2), (rest[2], 1), (rest[1], 1)], calls)
        step_together([(rest[2], 2), (rest[3], 1)], calls)
    step_together([(rest[3], 2)], calls)
    warm.clear()
    compare(rest[3], prepared_for(warm, specs[3], 2), CLOSE)


def prepared_for(warm, spec, steps):
    training = prepared(warm, spec)
    for step in range(1, steps + 1):
        step_alone(training, step)
    warm.clear()
    return training


def test_what_does_not_fit_together_is_asked_in_halves_and_no_gradient_counts_twice(doubled, photos):
    """A base that has room for three rows at a time takes the step all the same."""
    predict = doubled.predict

    def small(x, *rest):
        if len(x) > 3:
            raise torch.OutOfMemoryError("no room")
        return predict(x, *rest)

    specs = [spec_of(doubled, photos, 2, rank=2, batch_size=1, seed=seed, gradient_accumulation=2) for seed in range(5)]
    expected, losses = together(doubled, specs, [0] * 5)
    doubled.predict = small
    try:
        found, halves = together(doubled, specs, [0] * 5)
        with pytest.raises(torch.OutOfMemoryError):
            step_alone(prepared(doubled, spec_of(doubled, photos, 1, rank=2, batch_size=4)), 1)
    finally:
        del doubled.predict
        doubled.clear()
    assert halves == [pytest.approx(trace, rel=EXACT) for trace in losses]
    for one, other in zip(found, expected, strict=True):
        compare(one, other, EXACT)
