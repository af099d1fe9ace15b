"""Slots as a state machine, and what lies in them."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lorafleet.bundle.adapter import Adapter
from lorafleet.errors import RequestError
from lorafleet.numerics.factors import Factors
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache, Slots
from lorafleet_serve.adapters.host_cache import HostAdapter
from lorafleet_serve.adapters.layout import ColumnLayout, FlatAdapter
from lorafleet_serve.stats import Counts

CAPACITY = 10
SIZES = {(f"adapter-{i}", 0): size for i, size in enumerate((1, 2, 3, 4, 5, 9))}


class Machine(RuleBasedStateMachine):
    """Requests come with adapters, hold them, and leave; the slots must remember what a naive model does."""

    def __init__(self):
        super().__init__()
        self.slots = Slots(CAPACITY)
        self.there, self.leases, self.used = set(), [], []

    @rule(keys=st.sets(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3))
    def come(self, keys):
        wanted = {key: SIZES[key] for key in sorted(keys)}
        pinned = {key for lease in self.leases for key in lease}
        room = sum(SIZES[key] for key in pinned | keys) <= CAPACITY
        assert self.slots.admits(wanted) == room
        if not room:
            return
        new, gone = self.slots.pin(wanted)
        assert sorted(new) == sorted(keys - self.there)  # one load for a key that is not there, none for one that is
        assert not set(gone) & (pinned | keys)
        rest = [key for key in self.used if key in self.there and key not in pinned | keys]
        assert gone == rest[: len(gone)]  # the least recently used
        if gone:  # no more than needed
            assert sum(SIZES[key] for key in self.there | keys) - sum(SIZES[key] for key in gone[:-1]) > CAPACITY
        self.there = (self.there | keys) - set(gone)
        self.used = [key for key in self.used if key not in keys] + list(wanted)
        self.leases.append(list(wanted))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def leave(self, data):
        self.slots.unpin(self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1))))

    @rule(keys=st.sets(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3))
    def remove(self, keys):
        pinned = {key for lease in self.leases for key in lease}
        unpinned = self.slots.unpinned({folder for folder, _ in keys})
        assert set(unpinned) == (keys & self.there) - pinned
        self.slots.drop(unpinned)
        self.there -= set(unpinned)
        self.used = [key for key in self.used if key in self.there]

    @invariant()
    def within_bytes_and_pinned_stay(self):
        assert self.slots.nbytes == sum(SIZES[key] for key in self.there) <= CAPACITY
        assert set(self.slots.held) == self.there >= {key for lease in self.leases for key in lease}


TestSlots = Machine.TestCase
TestSlots.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

LAYOUT = ColumnLayout.of({"a.to_q": (6, 4), "a.to_k": (6, 4), "b.to_q": (4, 8), "b.ff": (8, 4)})


def host(name, rank=2, value=1.0):
    layers = {
        layer: Factors(torch.full((rank, n_in), value), torch.full((n_out, rank), value))
        for layer, (n_in, n_out) in {"a.to_q": (6, 4), "b.to_q": (4, 8)}.items()
    }
    return HostAdapter((name, 0), Adapter(name, {}, None, (), ""), FlatAdapter.of(layers, LAYOUT, torch.float32))


def store(capacity):
    counts = Counts()
    return DeviceAdapterCache(torch.device("cpu"), capacity, counts), counts


def test_rows_share_one_copy_and_the_counts_say_so():
    one, two = host("one"), host("two")
    slots, counts = store(2 * one.flat.nbytes)
    slots.lease([one, two])
    there = slots.get(one)
    slots.lease([one])
    assert slots.get(one) is there
    slots.release([one])
    slots.release([one, two])
    slots.lease([host("three")])
    stats = counts.read()
    assert (stats.slot_hits, stats.slot_misses, stats.slot_evictions) == (1, 3, 1)
    assert slots.nbytes == 2 * one.flat.nbytes
    assert {name for name, _ in slots.held()} == {"one", "three"}  # two was used longer ago


def test_adapters_that_never_fit_are_refused_by_their_bytes():
    one, two = host("one"), host("two")
    slots, _ = store(one.flat.nbytes)
    slots.check([one])
    slots.check([HostAdapter(("text only", 0), one.adapter, None)])
    with pytest.raises(RequestError, match=f"need {2 * one.flat.nbytes} bytes.*at most {one.flat.nbytes}"):
        slots.check([one, two])


class Unloadable(FlatAdapter):
    """As if the device had no memory left."""

    def to(self, device):
        raise torch.OutOfMemoryError("no memory")


def test_a_load_that_fails_leaves_nothing_behind():
    one, bad = host("one"), host("bad")
    bad = HostAdapter(bad.key, bad.adapter, Unloadable(**vars(bad.flat)))
    slots, _ = store(2 * one.flat.nbytes)
    slots.lease([one])
    with pytest.raises(torch.OutOfMemoryError):
        slots.lease([one, bad])
    assert slots.held() == {one.key}
    assert slots.nbytes == one.flat.nbytes
    slots.release([one])
    slots.lease([host("two"), host("three")])  # nothing is pinned any more
    assert {name for name, _ in slots.held()} == {"two", "three"}
