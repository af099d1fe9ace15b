"""Successive halving as a rule: against Ray Tune's scheduler on random sequences, and what must hold whatever comes."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from lorafleet_jobs.jobqueue.asha import Halving, share

etas, firsts, lengths = st.integers(2, 6), st.integers(1, 20), st.integers(1, 400)
scores = st.floats(-100, 100).map(lambda value: round(value, 2))  # coarse, so that some are equal


@pytest.mark.parametrize(
    ("eta", "first", "steps", "rungs"),
    [
        (3, 50, 1000, [50, 150, 450]),
        (3, 50, 450, [50, 150]),
        (3, 50, 451, [50, 150, 450]),
        (10, 1, 1000, [1, 10, 100]),  # where a logarithm would lose one
        (2, 200, 200, []),
        (2, 1, 1, []),
    ],
)
def test_rungs(eta: int, first: int, steps: int, rungs: list[int]) -> None:
    assert Halving(eta, first, steps).rungs() == rungs


@settings(max_examples=200, deadline=None)
@given(etas, firsts, lengths, st.data())
def test_decisions_are_those_of_ray_tune(eta: int, first: int, more: int, data: st.DataObject) -> None:
    """Jobs interleaved at random: at every rung both sides are told the score, and both give the same answer."""
    halving = Halving(eta, first, first + more)
    oracle = AsyncHyperBandScheduler(
        "step", "score", "max", max_t=halving.steps, grace_period=first, reduction_factor=eta
    )
    jobs = range(data.draw(st.integers(1, 12)))
    trials = [SimpleNamespace(trial_id=str(job)) for job in jobs]
    for trial in trials:
        oracle.on_trial_add(None, trial)
    waiting = {job: halving.rungs() for job in jobs}
    seen: dict[int, list[float]] = {rung: [] for rung in halving.rungs()}
    while going := [job for job in jobs if waiting[job]]:
        job = data.draw(st.sampled_from(going))
        rung, score = waiting[job].pop(0), data.draw(scores)
        theirs = oracle.on_trial_result(None, trials[job], {"step": rung, "score": score})
        mine = halving.goes_on(rung, score, seen[rung])
        assert mine == (theirs == TrialScheduler.CONTINUE), (rung, score, seen[rung])
        seen[rung].append(score)
        if not mine:
            waiting[job] = []


@given(etas, st.lists(scores, max_size=30), scores, scores)
def test_the_first_and_the_best_go_on_and_a_better_score_never_harms(
    eta: int, seen: list[float], one: float, other: float
) -> None:
    halving = Halving(eta, 1, 100)
    assert halving.goes_on(1, one, [])
    assert halving.goes_on(1, max([one, *seen]), seen)
    assert halving.goes_on(1, max(one, other), seen) or not halving.goes_on(1, min(one, other), seen)
    assert halving.goes_on(100, one, seen), "nobody is stopped at the end"
    assert halving.verdict(1, one, seen).bar == halving.bar(seen)


@given(etas, st.integers(2, 60), st.randoms())
def test_about_one_in_eta_of_many_goes_on(eta: int, count: int, random: object) -> None:
    seen = [float(i) for i in range(count)]
    random.shuffle(seen)  # type: ignore[attr-defined]
    go_on = sum(Halving(eta, 1, 100).goes_on(1, score, seen) for score in seen)
    assert count / eta - 1 < go_on < count / eta + 1


@given(etas, firsts, lengths, lengths)
def test_jobs_of_different_length_meet_at_the_same_steps(eta: int, first: int, one: int, other: int) -> None:
    short, long = (Halving(eta, first, steps).rungs() for steps in sorted((one, other)))
    assert long[: len(short)] == short
    assert all(rung < max(one, other) for rung in long)


def test_shares_in_words() -> None:
    assert [share(eta) for eta in (2, 3, 4, 7)] == ["half", "third", "quarter", "1/7"]
