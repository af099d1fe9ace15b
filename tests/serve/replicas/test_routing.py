"""Which replica, when to come back, and how many replicas: pure decisions."""

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.replicas.ray_policies import RowsPolicy, wanted
from lorafleet_serve.replicas.routing import Replica, choose, ranked
from lorafleet_serve.stats import EngineStats, replicas_wanted, retry_after_seconds

NAMES = st.sampled_from([f"a{i}" for i in range(8)])
REPLICAS = st.lists(
    st.builds(
        Replica, id=st.text("abcdef0123456789", min_size=8, max_size=8), held=st.frozensets(NAMES),
        load=st.integers(0, 6), room=st.just(4),
    ),
    min_size=1, max_size=6, unique_by=lambda replica: replica.id,
)  # fmt: skip


@given(REPLICAS, st.frozensets(NAMES, min_size=1, max_size=4))
def test_adapters_decide_unless_the_replica_is_full(replicas, names):
    best = choose(replicas, names)
    open_ones = [one for one in replicas if not one.full]
    if open_ones:
        assert not best.full
        assert len(best.held & names) == max(len(one.held & names) for one in open_ones)
    else:
        assert best.load == min(one.load for one in replicas)
    assert sorted(one.id for one in ranked(replicas, names)) == sorted(one.id for one in replicas)


@given(REPLICAS)
def test_a_request_without_adapters_goes_to_the_emptiest(replicas):
    assert choose(replicas, ()).load == min(one.load for one in replicas)


@given(REPLICAS, st.frozensets(NAMES, max_size=4), st.randoms())
def test_the_order_in_which_replicas_are_listed_does_not_matter(replicas, names, random):
    shuffled = random.sample(replicas, len(replicas))
    assert ranked(shuffled, sorted(names)) == ranked(replicas, names)


def test_cold_adapters_spread_stay_and_move_only_with_their_replica():
    replicas = [Replica(f"replica-{i}", room=4) for i in range(4)]
    homes = {f"subject-{i}": choose(replicas, [f"subject-{i}"]).id for i in range(400)}
    assert all(60 <= count <= 140 for count in Counter(homes.values()).values())
    fewer = replicas[:-1]
    for name, home in homes.items():
        if home != replicas[-1].id:
            assert choose(fewer, [name]).id == home


def test_a_hot_adapter_overflows_to_the_same_second_replica():
    full = [Replica("a", frozenset({"hot"}), 4, 4), Replica("b", load=0, room=4), Replica("c", load=0, room=4)]
    second = choose(full, ["hot"]).id
    assert second in ("b", "c")
    assert {choose(full, ["hot"]).id for _ in range(5)} == {second}


@pytest.mark.parametrize(("images", "waiting", "seconds", "expected"), [
    (0, 10, 0.0, 5.0),  # nothing is known yet
    (10, 0, 20.0, 1.0),
    (10, 7, 20.0, 14.0),  # 2 s an image
    (10, 900, 20.0, 120.0),
])  # fmt: skip
def test_retry_after_is_how_long_the_queue_takes(images, waiting, seconds, expected):
    stats = EngineStats(images=images, rows_waiting=waiting, step_seconds=seconds)
    assert retry_after_seconds(stats) == expected


@pytest.mark.parametrize(("rows", "room", "expected"), [(0, 8, 1), (8, 8, 1), (8.5, 8, 2), (100, 8, 13), (3, 1, 3)])
def test_replicas_are_as_many_as_run_everything_at_once(rows, room, expected):
    assert replicas_wanted(rows, room) == expected


@pytest.mark.parametrize(("recorded", "requests", "expected"), [
    ({}, 0, 1),
    ({"rows": {"a": 8.0, "b": 9.0}}, 5, 3),  # 17 images of 5 requests
    ({"rows": {"a": 1.0}}, 20, 3),  # 19 requests that no replica has yet
    (None, 20, 3),
])  # fmt: skip
def test_the_policy_counts_images_and_requests_without_a_replica(recorded, requests, expected):
    context = SimpleNamespace(aggregated_metrics=recorded, total_num_requests=requests)
    assert RowsPolicy(room=8)(context) == (expected, {})


def test_the_router_reads_what_is_wanted_from_the_call():
    body = ImagesRequest.model_validate({"prompt": "a", "adapters": [{"name": "rex"}, {"name": "mia", "version": 3}]})
    assert wanted(SimpleNamespace(args=[body])) == {"rex", "mia"}
    assert wanted(SimpleNamespace(args=[])) == wanted(None) == frozenset()
