"""Which pictures of a set are nearly the same, and whether all have one background or show the subject alike.

Groups are found without comparing every pair.
Two difference hashes of 64 bits that differ in at most 6 agree in at least one of 7 parts, so only pictures that share
a part are compared, and of a group that is known already none again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorafleet_jobs.images import NEAR_BITS, ImageFingerprint

PARTS = NEAR_BITS + 1
ONE_BACKGROUND = 16.0
"""Levels of 255 by which the colours around a subject may differ from the set's median, in the mean: of sets with
several backgrounds some picture differs by 28 and more."""
_IN_PLACE = 30.0
"""The same of each colour in its place, which another part of the same background changes more."""
ONE_VIEW = 10.0
"""The same of what is in the middle, where sets that turn around their subject differ by 25 and more."""
_BORDER = np.pad(np.zeros((6, 6), dtype=bool), 1, constant_values=True)
_MIDDLE = np.pad(np.ones((4, 4), dtype=bool), 2)


def has_one_background(looks: Sequence[ImageFingerprint]) -> bool:
    """Whether the 28 cells around every 8 x 8 thumbnail have the same colours, wherever along the border each lies."""
    borders = np.stack([look.colours[_BORDER] for look in looks])
    return _deviation(borders) < _IN_PLACE and _deviation(np.sort(borders, axis=1)) < ONE_BACKGROUND


def has_one_view(looks: Sequence[ImageFingerprint]) -> bool:
    """Whether the 4 x 4 cells in the middle of every 8 x 8 thumbnail are the same, each in its place."""
    return _deviation(np.stack([look.colours[_MIDDLE] for look in looks])) < ONE_VIEW


def _deviation(colours: NDArray[np.int16]) -> float:
    """How far the picture farthest from the set's median is from it; `colours` [pictures, cells, 3]."""
    return float(np.abs(colours - np.median(colours, axis=0)).mean(axis=(1, 2)).max())


def similar_groups(looks: Sequence[ImageFingerprint]) -> list[list[int]]:
    """Groups of two and more indices whose pictures are near each other, directly or by way of others; in order."""
    parents = list(range(len(looks)))
    for bucket in _buckets(looks):
        _join_near(bucket, looks, parents)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(looks)):
        groups[_root(parents, i)].append(i)
    return [group for group in groups.values() if len(group) > 1]


def _buckets(looks: Sequence[ImageFingerprint]) -> list[list[int]]:
    """The indices of pictures that agree in one of the parts of their hashes."""
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        bits = look.gradient.reshape(-1)
        for part in range(PARTS):
            buckets[part, bits[part::PARTS].tobytes()].append(i)
    return [bucket for bucket in buckets.values() if len(bucket) > 1]


def _join_near(bucket: Sequence[int], looks: Sequence[ImageFingerprint], parents: list[int]) -> None:
    groups: dict[int, list[int]] = {}
    for i in bucket:
        for first, members in groups.items():
            if _root(parents, i) != _root(parents, first) and any(looks[i].is_near(looks[j]) for j in members):
                parents[_root(parents, i)] = _root(parents, first)
        groups.setdefault(_root(parents, i), []).append(i)


def _root(parents: list[int], i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i
