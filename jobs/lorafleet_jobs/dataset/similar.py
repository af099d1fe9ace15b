"""Which pictures of a set are nearly the same: groups, found without comparing every pair.

Two difference hashes of 64 bits that differ in at most 6 agree in at least one of 7 parts, so only pictures that share
a part are compared, and of a group that is known already none again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from lorafleet_jobs.images import NEAR_BITS, ImageFingerprint

PARTS = NEAR_BITS + 1


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
