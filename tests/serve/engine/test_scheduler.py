"""How a step is filled: a bound on milliseconds that is learned, and shapes that step in turn."""

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorafleet_serve.engine.scheduler import RoundRobin, StepBudget

costs = st.lists(st.sampled_from([1, 2]), min_size=1, max_size=12)


def steps(budget, machine, costs, count, shape="s"):
    """The UNet rows of `count` steps on a machine that takes machine(rows) ms."""
    taken = []
    for _ in range(count):
        rows = sum(costs[: budget.choose(shape, costs)])
        budget.observe(shape, rows, machine(rows))
        taken.append(rows)
    return taken


@settings(deadline=None)
@given(costs)
def test_without_a_limit_everyone_steps(costs):
    assert StepBudget().choose("s", costs) == len(costs)


@settings(max_examples=200, deadline=None)
@given(costs, st.floats(1, 20), st.floats(0.1, 10), st.floats(1, 200))
def test_the_batch_grows_to_what_the_limit_holds_and_no_further(costs, fixed, each, limit):
    def machine(rows):
        return fixed + each * rows

    assume(all(abs(machine(sum(costs[:n])) / limit - 1) > 0.1 for n in range(1, len(costs) + 1)))  # doubt is slow
    taken = steps(StepBudget(limit), machine, costs, 40)
    assert taken[0] == costs[0]
    assert all(later - before <= 2 for before, later in pairwise(taken))
    within = [sum(costs[:n]) for n in range(1, len(costs) + 1) if machine(sum(costs[:n])) <= limit]
    assert taken[-1] == max(within, default=costs[0])
    # beyond the limit only the one image that must run, or a single try before a slope was known
    over = [rows for rows in taken if machine(rows) > limit and rows > costs[0]]
    assert len(over) <= 1


@settings(deadline=None)
@given(costs, st.lists(st.floats(0, 1e6), max_size=30), st.floats(0, 100))
def test_somebody_always_steps(costs, times, limit):
    budget = StepBudget(limit)
    for ms in times:
        chosen = budget.choose("s", costs)
        assert 1 <= chosen <= len(costs)
        budget.observe("s", sum(costs[:chosen]), ms)


def test_one_slow_step_is_not_believed_for_ever():
    budget = StepBudget(10.0)
    assert steps(budget, lambda rows: 8.0, [2, 2, 2], 5)[-1] == 6
    for rows in (4, 6):
        budget.observe("s", rows, 20.0)  # the machine was busy with something else
    assert budget.choose("s", [2, 2, 2]) == 1
    assert steps(budget, lambda rows: 8.0, [2, 2, 2], 1000)[-1] == 6


def test_a_step_that_was_slow_once_counts_less_than_what_was_known_before():
    budget = StepBudget(15.0)
    budget.observe("s", 4, 10.0)
    budget.observe("s", 4, 20.0)  # 13 together
    assert budget.choose("s", [2, 2]) == 2
    budget.observe("s", 4, 20.0)  # 15.1
    assert budget.choose("s", [2, 2]) == 1


def test_shapes_are_learned_apart():
    budget = StepBudget(10.0)
    steps(budget, lambda rows: 20.0, [2, 2], 3, "large")
    assert steps(budget, lambda rows: 1.0, [2, 2], 3, "small")[-1] == 4
    assert budget.choose("large", [2, 2]) == 1


@pytest.mark.parametrize("limit", [None, 1000.0])
def test_too_many_for_memory_are_halved_and_stay_so(limit):
    budget = StepBudget(limit)
    steps(budget, lambda rows: 1.0, [2] * 8, 10)
    budget.too_many("s", 16)
    assert budget.choose("s", [2] * 8) == 4
    budget.too_many("s", 2)
    assert budget.choose("s", [2] * 8) == 1
    assert budget.choose("other", [2]) == 1


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=60))
def test_no_shape_waits_longer_than_a_round(present):
    scheduler, waited = RoundRobin[int](), {}
    for shapes in present:
        chosen = scheduler.next(sorted(shapes))
        assert chosen in shapes
        waited = {shape: waited.get(shape, 0) + 1 for shape in shapes if shape != chosen}
        assert max(waited.values(), default=0) <= 5
