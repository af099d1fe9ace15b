"""Names to versions: what holds how long, one question at a time, and serving that outlives the registry."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.bundle.disk_cache import CacheStats
from lorafleet.bundle.ports import AdapterVersion
from lorafleet.errors import NotFoundError, UnreachableError
from lorafleet_serve.adapters.resolver import Answer, Freshness, Resolver, after

HOW = Freshness(alias_ttl=5, number_ttl=100, refusal_ttl=1, stale_for=60)
REX = AdapterVersion("rex", 3, ("champion",), "toy-sdxl", ("<rex>",), Path("/bundles/rex"))
DOWN, NOBODY = UnreachableError("MLflow does not answer"), NotFoundError("no adapter 'rex'")


@pytest.mark.parametrize(("outcome", "last", "now", "wanted", "expected"), [
    (REX, None, 10, "champion", Answer(REX, None, 10, 15)),
    (REX, None, 10, "3", Answer(REX, None, 10, 110)),
    (NOBODY, None, 10, "champion", Answer(None, NOBODY, 10, 11)),
    (NOBODY, Answer(REX, None, 0, 5), 10, "champion", Answer(None, NOBODY, 10, 11)),  # it was deleted
    (DOWN, None, 10, "champion", Answer(None, DOWN, 10, 11)),
    (DOWN, Answer(REX, None, 0, 5), 10, "champion", Answer(REX, None, 0, 15, stale=True)),
    (DOWN, Answer(REX, None, 0, 65, stale=True), 65, "champion", Answer(REX, None, 0, 70, stale=True)),
    (DOWN, Answer(REX, None, 0, 65, stale=True), 65.1, "champion", Answer(None, DOWN, 65.1, 66.1)),
    (DOWN, Answer(REX, None, 0, 100), 160, "3", Answer(REX, None, 0, 165, stale=True)),
    (DOWN, Answer(None, NOBODY, 9, 10), 10, "champion", Answer(None, DOWN, 10, 11)),
    (REX, Answer(REX, None, 0, 65, stale=True), 65, "champion", Answer(REX, None, 65, 70)),
])  # fmt: skip
def test_what_holds_after_the_registry_spoke(outcome, last, now, wanted, expected):
    assert after(outcome, last, now, wanted, HOW) == expected


@given(st.lists(st.tuples(st.floats(0.1, 30), st.sampled_from([REX, DOWN, NOBODY])), min_size=1, max_size=40))
def test_nothing_is_served_beyond_its_time(history):
    """An adapter is served as last known for ttl + stale_for, and the ttl of what was said in that time."""
    last, now, found = None, 0.0, None
    for pause, outcome in history:
        now += pause
        if last is not None and now < last.until:
            assert last.adapter is None or now - found <= HOW.alias_ttl + HOW.stale_for + HOW.alias_ttl
            continue
        last = after(outcome, last, now, "champion", HOW)
        found = now if outcome is REX else found
        assert (last.adapter is None) == (last.problem is not None)
        assert last.until > now


class Registry:
    """The port with answers that a test sets; counts, and waits at a gate."""

    def __init__(self):
        self.says, self.asked, self.gate = REX, [], threading.Event()
        self.gate.set()

    def resolve(self, name, version=None):
        self.asked.append((name, version))
        assert self.gate.wait(20)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def list(self):
        return [REX]

    def hold(self, adapter):
        return nullcontext(True)

    def cache_stats(self):
        return CacheStats()


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def resolver(registry, clock):
    made = Resolver(registry, HOW, clock)
    yield made
    made.close()


def test_a_promotion_arrives_when_the_alias_is_old_enough_and_a_number_is_asked_once(resolver, registry, clock):
    newer = AdapterVersion("rex", 4, ("champion",), "toy-sdxl", (), Path("/bundles/rex4"))
    for version in ("champion", "3", None):
        assert resolver.find("rex", version).result(5) == REX
    registry.says = newer
    clock.now += 4.9
    assert resolver.find("rex").result(5) == REX
    clock.now += 0.1
    assert resolver.find("rex").result(5) == newer
    assert resolver.find("rex", "3").result(5) == REX
    assert registry.asked == [("rex", "champion"), ("rex", "3"), ("rex", "champion")]
    assert (resolver.stats().hits, resolver.stats().misses) == (3, 3)
    resolver.forget("rex", "3")
    assert resolver.find("rex", "3").result(5) == newer


def test_a_removed_version_is_known_by_no_name_once_its_name_is_dropped(resolver, registry):
    for name, version in (("rex", None), ("rex", "3"), ("mia", None)):
        resolver.find(name, version).result(5)
    assert resolver.known() == {REX}
    registry.says = NOBODY
    resolver.drop("rex")
    assert resolver.find("mia").result(5) == REX
    for version in (None, "3"):
        with pytest.raises(NotFoundError):
            resolver.find("rex", version).result(5)
    resolver.drop("mia")
    assert resolver.known() == set()


def test_a_crowd_asks_once(resolver, registry):
    registry.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: resolver.find("rex"), range(100)))
        registry.gate.set()
        assert {one.result(5) for one in found} == {REX}
    assert registry.asked == [("rex", "champion")]


def test_serving_outlives_the_registry_for_a_while(resolver, registry, clock, caplog):
    assert resolver.find("rex").result(5) == REX
    registry.says = DOWN
    clock.now += 6
    with caplog.at_level(logging.WARNING):
        assert resolver.find("rex").result(5) == REX
    assert "served as last known" in caplog.text
    clock.now += 4
    assert resolver.find("rex").result(5) == REX
    assert len(registry.asked) == 2, "a registry that is down is not asked by every request"
    with pytest.raises(UnreachableError):
        resolver.find("mia").result(5)
    clock.now += 60
    with pytest.raises(UnreachableError):
        resolver.find("rex").result(5)
    assert (resolver.stats().stale, resolver.stats().failures) == (2, 2)
    registry.says = REX
    clock.now += 2
    assert resolver.find("rex").result(5) == REX


def test_a_refusal_is_soon_asked_again_and_each_asker_gets_its_own_error(resolver, registry, clock):
    registry.says = NOBODY
    problems = []
    for _ in range(3):
        with pytest.raises(NotFoundError, match="no adapter 'rex'") as caught:
            resolver.find("rex").result(5)
        problems.append(caught.value)
    assert len(registry.asked) == 1
    assert len({id(problem) for problem in problems}) == 3
    clock.now += 1
    registry.says = REX
    assert resolver.find("rex").result(5) == REX


def test_answers_are_bounded_and_the_name_asked_longest_ago_is_forgotten(registry):
    resolver = Resolver(registry, max_answers=3)
    for name in ("a", "b", "c", "d"):
        resolver.find(name).result(5)
    for name in ("d", "c", "b"):
        resolver.find(name).result(5)
    assert [name for name, _ in registry.asked] == ["a", "b", "c", "d"]
    resolver.find("a").result(5)
    assert [name for name, _ in registry.asked] == ["a", "b", "c", "d", "a"]
    resolver.close()


def test_an_error_that_is_not_ours_reaches_the_asker_and_is_not_kept(resolver, registry):
    registry.says = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        resolver.find("rex").result(5)
    registry.says = REX
    assert resolver.find("rex").result(5) == REX
