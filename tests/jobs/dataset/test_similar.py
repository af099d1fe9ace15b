"""Groups of similar pictures are those that comparing every pair gives, and few pairs are compared."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet_jobs.dataset.similar import similar_groups
from lorafleet_jobs.images import ImageFingerprint


def look(bits, colour=0):
    gradient = np.array(bits, dtype=bool).reshape(8, 8)
    return ImageFingerprint(10, 10, "", gradient, np.full((8, 8, 3), colour, dtype=np.int16))


def flipped(seed, flips, colour=0):
    bits = np.random.default_rng(seed).integers(0, 2, 64)
    bits[list(flips)] ^= 1
    return look(bits, colour)


def by_every_pair(looks):
    groups = [{i} for i in range(len(looks))]
    for i, j in combinations(range(len(looks)), 2):
        if looks[i].is_near(looks[j]):
            one, other = (next(group for group in groups if k in group) for k in (i, j))
            if one is not other:
                one |= other
                groups.remove(other)
    return sorted(sorted(group) for group in groups if len(group) > 1)


PICTURES = st.builds(
    flipped, st.integers(0, 2), st.sets(st.integers(0, 63), max_size=9), st.sampled_from([0, 0, 8, 30])
)


@settings(deadline=None)
@given(st.lists(PICTURES, max_size=14))
def test_groups_are_those_of_all_pairs(looks):
    assert sorted(similar_groups(looks)) == by_every_pair(looks)


@pytest.mark.parametrize("count", [400, 1600])
def test_frames_of_a_film_are_compared_a_few_times_each(monkeypatch, count):
    rng, near, compared = np.random.default_rng(0), ImageFingerprint.is_near, []
    bits = rng.integers(0, 2, 64)
    looks = []
    for _ in range(count):
        frame = bits.copy()
        frame[rng.integers(0, 64, 2)] ^= 1
        looks.append(look(frame))
    monkeypatch.setattr(ImageFingerprint, "is_near", lambda self, other: compared.append(1) or near(self, other))
    assert [len(group) for group in similar_groups(looks)] == [count]
    assert len(compared) < 4 * count


def test_a_thousand_different_pictures_are_hardly_compared(monkeypatch):
    near, compared = ImageFingerprint.is_near, []
    looks = [flipped(seed, ()) for seed in range(1000)]
    monkeypatch.setattr(ImageFingerprint, "is_near", lambda self, other: compared.append(1) or near(self, other))
    assert similar_groups(looks) == []
    assert len(compared) < 1000 * 1000 / 2 / 40
