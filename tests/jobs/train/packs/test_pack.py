"""A pack changes nothing: every job in it comes out as it does alone, whoever joins, leaves or breaks beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs_here import BASES, alone, compare, double, prepared, spec_of, together

from lorafleet.bases import find_base
from lorafleet.errors import NonFiniteError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import CapturedCalls
from lorafleet_jobs.train.batching import CompiledBatching, DynamicBatching, StaticBatching
from lorafleet_jobs.train.job_step import JobStep
from lorafleet_jobs.train.pack import forward_backward, train_step, train_step_alone

EXACT, CLOSE = 1e-9, 1e-3


@pytest.fixture(scope="module", params=BASES)
def doubled(request):
    """A base that computes in float64."""
    return double(LoadedBase.load(find_base(request.param)))


@pytest.fixture(scope="module", params=BASES)
def loaded(request):
    return LoadedBase.load(find_base(request.param))


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


def check_pack(loaded, photos, pack, bar, batching=None):
    specs = [spec_of(loaded, photos, steps, **recipe) for recipe, _, steps in pack]
    trainings, losses = together(loaded, specs, [join for _, join, _ in pack], batching)
    for spec, training, trace in zip(specs, trainings, losses, strict=True):
        lonely, expected = alone(loaded, spec)
        assert trace == pytest.approx(expected, rel=bar, abs=bar)
        compare(training, lonely, bar)


@settings(max_examples=4, deadline=None, suppress_health_check=QUIET)
@given(pack=PACKS)
def test_a_pack_changes_nothing_in_float64(doubled, photos, pack):
    check_pack(doubled, photos, pack, EXACT)


@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(pack=PACKS)
def test_a_pack_whose_steps_are_recorded_changes_nothing(doubled, photos, pack):
    """On a CPU the recorded function is called on the buffers that a GPU would replay it on."""
    check_pack(doubled, photos, pack, EXACT, StaticBatching(CapturedCalls(doubled.device)))


@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(pack=PACKS)
def test_a_pack_changes_nothing_to_speak_of_in_float32(loaded, photos, pack):
    check_pack(loaded, photos, pack, CLOSE)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(5))
@settings(max_examples=5, deadline=None, suppress_health_check=QUIET)
@given(pack=st.lists(st.tuples(RECIPES, st.integers(0, 12), st.just(20)), min_size=2, max_size=6))
def test_a_pack_changes_nothing_over_twenty_steps(doubled, photos, part, pack):
    """In parts that each fit beside others into the half hour that CI has for slow tests."""
    check_pack(doubled, photos, pack, EXACT)


def test_two_equal_jobs_in_one_pack_come_out_identical(loaded, photos):
    spec = spec_of(loaded, photos, rank=4, batch_size=2)
    other = spec_of(loaded, photos, rank=4, batch_size=2, dora=True, seed=3)
    (one, _, two), losses = together(loaded, [spec, other, spec], [0, 0, 0])
    assert losses[0] == losses[2]
    assert all(torch.equal(a, b) for a, b in zip(one.trainable.parameters(), two.trainable.parameters(), strict=True))


def test_one_call_of_the_base_for_jobs_of_one_shape_and_turns_for_others(loaded, photos):
    calls = []
    handle = loaded.unet.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    specs = [spec_of(loaded, photos, 1, rank=2, batch_size=size) for size in (2, 2, 1, 2)]
    together(loaded, specs, [0, 0, 0, 0])
    handle.remove()
    assert sorted(calls) == [1, 6]


def poisoned(loaded, photos, poison):
    """A job whose learning rate has exploded, or with a picture that is not a number."""
    bad = prepared(loaded, spec_of(loaded, photos, rank=2, batch_size=2, optimizer="adamw", seed=5))
    if poison == "rate":
        with torch.no_grad():
            bad.trainable.low_rank["unet"].flat.fill_(1e30)
    elif poison == "image":
        picture = bad.dataset.batch(0)
        bad.dataset.batch = lambda index: type(picture)(**{**vars(picture), "z": picture.z * float("nan")})
    return bad


def beside(loaded, photos, poison, calls):
    """Two good jobs after four steps with a third beside them, which leaves if it breaks."""
    good = [prepared(loaded, spec_of(loaded, photos, rank=2, batch_size=2, seed=seed)) for seed in (1, 2)]
    jobs = [good[0], poisoned(loaded, photos, poison), good[1]]
    reasons = []
    for step in (1, 2, 3, 4):
        outcomes = train_step([(job, step) for job in jobs], calls)
        reasons += [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        jobs = [job for job, outcome in zip(jobs, outcomes, strict=True) if isinstance(outcome, float)]
    return good, reasons


@pytest.mark.parametrize("poison", ["rate", "image"])
def test_a_poisoned_job_leaves_and_the_others_come_out_the_same(loaded, photos, poison):
    good, (reason,) = beside(loaded, photos, poison, DynamicBatching())
    assert isinstance(reason, NonFiniteError)
    assert "lower learning_rate" in str(reason)
    for training in good:
        compare(training, alone(loaded, training.spec)[0], CLOSE)
        assert all(torch.isfinite(parameter).all() for parameter in training.trainable.parameters())


def test_a_compiled_pack_is_not_compiled_again_when_jobs_join_and_leave(photos):
    """`aot_eager` traces as `inductor` does, and needs no C++ compiler."""
    loaded = LoadedBase.load(find_base("toy-sdxl"))
    calls = CompiledBatching(loaded, 3, rank=4, backend="aot_eager")
    recipes = ({"rank": 4}, {"rank": 2, "dora": True}, {"rank": 1, "pivotal": {"tokens": 1}}, {"rank": 3, "alpha": 1})
    specs = [spec_of(loaded, photos, 4, batch_size=2, **recipe) for recipe in recipes]
    first, rest = [(prepared(loaded, spec), 1) for spec in specs[:2]], [prepared(loaded, spec) for spec in specs]
    train_step(first, calls)
    with torch.compiler.set_stance("fail_on_recompile"):
        train_step([(rest[0], 1)], calls)
        train_step([(rest[0], 2), (rest[2], 1), (rest[1], 1)], calls)
        train_step([(rest[2], 2), (rest[3], 1)], calls)
    train_step([(rest[3], 2)], calls)
    compare(rest[3], prepared_for(loaded, specs[3], 2), CLOSE)


def test_nothing_is_recorded_anew_when_jobs_join_leave_and_differ_in_rank(loaded, photos):
    """Within a number of slots: 3 jobs have a call of 4 slots, whose free one weighs nothing."""
    calls = CapturedCalls(loaded.device)
    batching = StaticBatching(calls, rank=8)
    recipes = ({"rank": 4, "dora": True}, {"rank": 8}, {"rank": 2, "alpha": 1}, {"rank": 1, "targets": "attn"})
    kept = {"pivotal": {"tokens": 2, "fraction": 1.0}}  # trained to the end
    specs = [spec_of(loaded, photos, 3, batch_size=2, seed=i, **kept, **recipe) for i, recipe in enumerate(recipes)]
    jobs = [prepared(loaded, spec) for spec in specs]
    train_step([(jobs[0], 1), (jobs[1], 1), (jobs[2], 1)], batching)
    assert calls.recorded == 3, "the base's step, and both ways through the text encoders"
    train_step([(jobs[0], 2), (jobs[1], 2), (jobs[2], 2), (jobs[3], 1)], batching)
    train_step([(jobs[3], 2), (jobs[1], 3), (jobs[2], 3)], batching)
    assert calls.recorded == 3
    train_step([(jobs[3], 3)], batching)
    assert calls.recorded == 6, "one slot is another shape"
    for i, steps in ((1, 3), (2, 3), (3, 3), (0, 2)):
        compare(jobs[i], prepared_for(loaded, specs[i], steps), CLOSE)


@pytest.mark.parametrize("batching", [DynamicBatching, StaticBatching])
def test_gradients_are_the_losses_derivatives(doubled, photos, batching):
    """Central differences along one direction for each job; optimizers that ignore a gradient's scale would hide it."""
    recipes = (
        {"rank": 2, "alpha": 6.0, "pivotal": None},
        {"rank": 4, "alpha": 1.0, "dora": True, "pivotal": None},
        {"rank": 3, "pivotal": {"tokens": 1}},
    )
    jobs = [JobStep(prepared(doubled, spec_of(doubled, photos, 3, seed=i, **r)), 1) for i, r in enumerate(recipes)]
    draws = torch.Generator().manual_seed(0)
    for job in jobs:
        for parameter in job.training.trainable.parameters():  # B is 0 at first, and then A has no gradient
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype)
        job.training.begin(1)
        assert job.draw(0)
    plan = batching()

    def losses_and_gradients():
        losses, gradients = forward_backward(jobs, plan.slots("shape", jobs), plan)
        return losses.tolist(), gradients

    _, gradients = losses_and_gradients()
    for i, job in enumerate(jobs):
        parameters = job.training.trained()
        directions = [torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in parameters]
        layout = job.low_rank.layout
        if layout.dora:  # its norms are constants by definition, so that only m has a derivative of the loss
            factors = layout.factors(directions[0].zero_())
            for layer in factors.values():
                layer.m.normal_(generator=draws)
        slope = sum(float((g * d).sum()) for g, d in zip(gradients[i], directions, strict=True))
        sides = []
        for sign in (1, -2):
            for p, direction in zip(parameters, directions, strict=True):
                p.data += sign * 1e-6 * direction
            sides.append(losses_and_gradients()[0][i])
        for p, direction in zip(parameters, directions, strict=True):
            p.data += 1e-6 * direction
        assert slope == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5)


def test_a_free_slot_teaches_its_job_nothing(doubled, photos):
    """It repeats the rows of the first job, whose token vectors would otherwise learn from them twice."""
    specs = [spec_of(doubled, photos, 2, rank=2, seed=i, pivotal={"tokens": 1}) for i in range(3)]
    trainings, _ = together(doubled, specs, [0, 0, 0], StaticBatching())
    compare(trainings[0], alone(doubled, specs[0])[0], EXACT)


@pytest.mark.parametrize("poison", ["rate", "image"])
def test_a_poisoned_job_in_a_recorded_step_leaves_and_the_others_come_out_the_same(loaded, photos, poison):
    good, (reason,) = beside(loaded, photos, poison, StaticBatching(CapturedCalls(loaded.device)))
    assert isinstance(reason, NonFiniteError)
    for training in good:
        compare(training, alone(loaded, training.spec)[0], CLOSE)


@pytest.mark.parametrize(
    ("jobs", "most", "parts"),
    [(1, None, [1]), (3, None, [3]), (5, None, [4, 1]), (6, None, [6]), (9, None, [8, 1]), (11, None, [8, 3]),
     (12, None, [12]), (7, 4, [4, 3]), (7, 1, [1] * 7)],
)  # fmt: skip
def test_calls_have_slots_of_which_at_most_a_quarter_is_free(jobs, most, parts):
    batching = StaticBatching()
    if most is not None:
        batching.overflowed("shape", 2 * most)
    split = batching.split("shape", range(jobs))
    assert [len(part) for part in split] == parts
    assert [job for part in split for job in part] == list(range(jobs))
    for part in split:
        slots = batching.slots("shape", part)
        assert list(slots[: len(part)]) == list(part)
        assert len(slots).bit_count() == 1
        assert 4 * (len(slots) - len(part)) <= len(slots)


@pytest.mark.slow
def test_every_shape_of_aspect_buckets_is_compiled(photos):
    """Torch gives up after eight shapes unless it is told otherwise, and calls the rest uncompiled."""
    loaded, graphs = LoadedBase.load(find_base("toy-sdxl")), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    unet, one = CompiledBatching(loaded, 1, backend=backend).unet, torch.zeros(1)
    conditioning = loaded.unconditional(1)
    for height in range(4, 40, 4):
        with torch.no_grad():
            loaded.predict(torch.zeros(1, 4, height, 8), one, conditioning, torch.zeros(1, 6), unet)
    assert len(graphs) == 9


def prepared_for(loaded, spec, steps):
    training = prepared(loaded, spec)
    for step in range(1, steps + 1):
        train_step_alone(training, step)
    return training
