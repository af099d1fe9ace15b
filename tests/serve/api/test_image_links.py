"""Images behind links: for a bounded time and within bounded bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet_serve.api.image_links import ImageLinks


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 4)), max_size=40))
def test_bytes_and_seconds_are_bounded_and_the_newest_is_always_there(added):
    clock = Clock()
    links = ImageLinks(seconds=10.0, most_bytes=100, clock=clock)
    names = []
    for size, wait in added:
        clock.now += wait
        names.append((clock.now, links.add(bytes(size), "image/png"), size))
        assert links.bytes_kept <= 100
        assert links.get(names[-1][1]).data == bytes(size)
    kept = [(at, size) for at, name, size in names if links.get(name) is not None]
    assert sum(size for _, size in kept) == links.bytes_kept
    assert all(at + 10.0 > clock.now for at, _ in kept)
    assert kept == [(at, size) for at, _, size in names][len(names) - len(kept) :], "the oldest go first"
    clock.now += 10.0
    assert all(links.get(name) is None for _, name, _ in names)
    assert links.bytes_kept == 0


def test_names_cannot_be_guessed():
    links = ImageLinks()
    names = {links.add(b"the same", "image/png") for _ in range(100)}
    assert len(names) == 100
    assert all(len(bytes.fromhex(name)) == 32 for name in names)


def test_one_image_that_is_too_large_is_kept_alone():
    links = ImageLinks(most_bytes=10)
    first, second = links.add(b"x", "image/png"), links.add(bytes(11), "image/png")
    assert links.get(first) is None
    assert links.get(second) is not None


@pytest.mark.parametrize("name", ["", "..", "0" * 64, "ä"])
def test_an_unknown_name_is_none(name):
    assert ImageLinks().get(name) is None
