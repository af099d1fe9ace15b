"""Sweeps as written: which points they come to, that they are the same every time, and what is wrong with them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.config import Manifest
from lorafleet.config.strict import parse
from lorafleet.config.sweep import EarlyStop, nested
from lorafleet.errors import ManifestError


def manifest(**more: object) -> Manifest:
    return parse(Manifest, {"name": "m", "subjects": [{"images": "a"}], **more}, "m.yaml")


def points(sweep: object) -> list[dict[str, object]]:
    return list(manifest(sweep=sweep).sweep.points())


def drawn(count: int = 5, seed: int = 0, **space: object) -> list[dict[str, object]]:
    return points({"random": {"count": count, "seed": seed, "space": space}})


RATE = {"log_uniform": [1e-5, 1e-3]}


def test_three_ways_to_write_points() -> None:
    assert points({"rank": [4, 16], "dora": [True, False]}) == [
        {"rank": 4, "dora": True}, {"rank": 4, "dora": False}, {"rank": 16, "dora": True}, {"rank": 16, "dora": False},
    ]  # fmt: skip
    assert points({"points": [{"rank": 4}, {"rank": 16, "learning_rate": 1e-4}]}) == [
        {"rank": 4}, {"rank": 16, "learning_rate": 1e-4},
    ]  # fmt: skip
    assert [set(point) for point in drawn(2, rank={"choice": [4, 8]}, learning_rate=RATE)] == [
        {"rank", "learning_rate"}
    ] * 2
    assert list(manifest().sweep.points()) == [{}]


def test_a_grid_is_dumped_as_written_so_that_old_submissions_keep_their_ids() -> None:
    sweep = {"rank": [4, 16], "min_snr_gamma": [None, 5.0]}
    assert manifest(sweep=sweep).model_dump(mode="json")["sweep"] == sweep
    assert manifest().model_dump(mode="json")["sweep"] == {}


@pytest.mark.parametrize(
    "sweep",
    [
        {"rank": [4, 16]},
        {"points": [{"rank": 4, "pivotal": None}]},
        {"random": {"count": 3, "space": {"rank": {"choice": [4, None]}, "batch_size": {"int": [1, 4]}}}},
    ],
)
def test_a_sweep_survives_a_round_trip(sweep: object) -> None:
    made = manifest(sweep=sweep)
    again = Manifest.model_validate_json(made.model_dump_json(exclude_none=True))
    assert again == made == made.with_changes(base="toy-sdxl").with_changes(base=made.base)
    assert list(again.sweep.points()) == list(made.sweep.points())


bounds = st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3)).map(sorted)


@settings(max_examples=60)
@given(bounds, st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(sorted), st.integers(0, 99))
def test_draws_stay_within_their_bounds(real: list[float], whole: list[int], seed: int) -> None:
    for point in drawn(20, seed, a={"uniform": real}, b={"log_uniform": real}, c={"int": whole}):
        assert real[0] <= point["a"] <= real[1]  # type: ignore[operator]
        assert real[0] <= point["b"] <= real[1]  # type: ignore[operator]
        assert point["c"] in range(whole[0], whole[1] + 1)


def test_draws_reach_every_value() -> None:
    found = drawn(100, batch_size={"int": [1, 4]}, rank={"choice": [4, 8, 16]}, learning_rate=RATE)
    assert {point["batch_size"] for point in found} == {1, 2, 3, 4}
    assert {point["rank"] for point in found} == {4, 8, 16}
    below = sum(point["learning_rate"] < 1e-4 for point in found)  # type: ignore[operator]
    assert 30 < below < 70, "half of them lie below the middle of the logarithm"


def test_the_same_manifest_draws_the_same_points() -> None:
    values = (2.53734e-05, 3.79372e-05, 2.13043e-05)
    assert drawn(3, learning_rate=RATE) == [{"learning_rate": value} for value in values]
    few, many = drawn(3, learning_rate=RATE), drawn(9, rank={"choice": [4, 8]}, learning_rate=RATE)
    assert [point["learning_rate"] for point in few] == [point["learning_rate"] for point in many[:3]]
    assert drawn(3, 1, learning_rate=RATE) != few
    assert all(float(f"{value:.6g}") == value for point in many for value in [point["learning_rate"]])


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"rank": 4}, "sweep.rank is 4; it must be a list, as in [a, b]"),
        ([{"rank": 4}], "sweep is [{'rank': 4}]; write recipe keys with lists of values, or points: [...], or"),
        ({"points": [{"rank": 4}], "rank": [4]}, "sweep: points stands alone, and here is rank too; keep one of them"),
        ({"points": []}, "sweep.points is []; "),
        ({"points": [4]}, "sweep.points.0 is 4; "),
        ({"random": {"count": 3}}, "'sweep.random.space' is missing; add it"),
        ({"random": {"cuont": 3, "count": 3, "space": {"rank": {"choice": [1]}}}},
         "unknown key 'sweep.random.cuont'; did you mean 'count'?"),
        ({"random": {"count": 0, "space": {"rank": {"choice": [1]}}}}, "sweep.random.count is 0; "),
        ({"random": {"count": 1, "space": {}}}, "sweep.random.space is a mapping; "),
        ({"random": {"count": 1, "space": {"rank": [4, 8]}}}, "sweep.random.space.rank is [4, 8]; allowed is one of"),
        ({"random": {"count": 1, "space": {"rank": {"loguniform": [4, 8]}}}}, "space.rank: allowed is one of {choice"),
        ({"random": {"count": 1, "space": {"rank": {"int": [8, 4]}}}}, "space.rank: [8, 4] runs downwards; write [low"),
        ({"random": {"count": 1, "space": {"rank": {"log_uniform": [0, 1]}}}}, "log_uniform begins at 0; it takes"),
        ({"random": {"count": 1, "space": {"rank": {"choice": []}}}}, "sweep.random.space.rank.choice is []; "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_sweep_is_said_by_its_path(sweep: object, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest(sweep=sweep)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("early", "said"),
    [
        ({"first": 50, "metric": "scor"}, "early_stop.metric is 'scor'"),
        ({}, "'early_stop.first' is missing; add it"),
        ({"first": 50, "eta": 1}, "early_stop.eta is 1; it must be at least 2"),
        ({"first": 50, "max": 50}, "max is 50 and first 50, so that nothing is compared; raise max"),
        ({"first": 50, "metric": "dino"}, "metric dino takes an encoder; give weights: FOLDER of facebook/dino-vits16"),
        ({"first": 50, "weights": "x"}, "metric score takes no weights; leave weights out"),
        ({"frist": 50}, "unknown key 'early_stop.frist'; did you mean 'first'?"),
    ],
)
def test_what_is_wrong_with_an_early_stop(early: object, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest(sweep={"rank": [4, 8]}, early_stop=early)
    assert said in str(caught.value)


@pytest.mark.parametrize("sweep", [{}, {"rank": [4]}, {"points": [{"rank": 4}]}])
def test_an_early_stop_needs_points_to_compare(sweep: object) -> None:
    with pytest.raises(ManifestError, match="compares the points of a sweep, and there is none; add sweep, or leave"):
        manifest(sweep=sweep, early_stop={"first": 50})
    assert EarlyStop(first=50).eta == 3


def test_inner_keys_are_written_out() -> None:
    point = {"rank": 4, "pivotal.tokens": 2, "pivotal.fraction": math.pi / 4, "prior": None}
    assert nested(point) == {"rank": 4, "pivotal": {"tokens": 2, "fraction": math.pi / 4}, "prior": None}
