"""Sizes that training pictures are cut to, and which pictures each batch shows: pure functions of the batch's index.

A batch has one size. Each bucket (the pictures of one size) has an endless stream of epochs of its own, and batches
come from the buckets in proportion to their pictures, so that over time every picture is used equally often.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorafleet.numerics.generators import generator_for
from lorafleet.sizes import bucket_sizes as shared_sizes
from lorafleet_jobs.train.data.geometry import Size


def bucket_sizes(resolution: int) -> list[Size]:
    """The sizes that pictures of any shape are cut to: those the base is asked for (`lorafleet.sizes`)."""
    return [Size(height, width) for height, width in shared_sizes(resolution)]


def nearest(original: Size, sizes: Sequence[Size]) -> Size:
    """The size of the nearest shape, by the ratio of ratios."""

    def shape(size: Size) -> float:
        return math.log(size.width / size.height)

    return min(sizes, key=lambda size: abs(shape(size) - shape(original)))


@dataclass(frozen=True)
class EpochStream:
    """An endless stream of epochs over `count` things, each epoch in an order of its own."""

    count: int
    seed: int
    purpose: str
    number: int = 0
    """Distinguishes the streams of one purpose."""

    def take(self, start: int, length: int) -> list[int]:
        """The elements start ... start + length - 1 of the stream, each in 0 ... count - 1."""
        orders = {
            epoch: self._order(epoch) for epoch in range(start // self.count, (start + length - 1) // self.count + 1)
        }
        return [orders[i // self.count][i % self.count] for i in range(start, start + length)]

    def _order(self, epoch: int) -> list[int]:
        generator = generator_for(self.seed, self.purpose, self.number, epoch)
        return torch.randperm(self.count, generator=generator).tolist()


@dataclass(frozen=True)
class BucketBatch:
    """The bucket that a batch is taken from."""

    bucket: int
    ordinal: int
    """How many batches were taken from this bucket before."""


@dataclass(frozen=True)
class BucketCycle:
    """The repeating order of buckets: in each cycle in proportion to their pictures, as evenly spread as can be."""

    cycle: tuple[int, ...]
    """The bucket of each batch of a cycle."""

    @classmethod
    def of(cls, counts: Sequence[int]) -> BucketCycle:
        """The cycle for buckets of `counts` pictures, none of them empty."""
        divisor = math.gcd(*counts)
        shares = [count // divisor for count in counts]
        positions = sorted(((j + 0.5) / share, bucket) for bucket, share in enumerate(shares) for j in range(share))
        return cls(tuple(bucket for _, bucket in positions))

    def at(self, index: int) -> BucketBatch:
        """The bucket of the index-th batch, counted from 0."""
        cycles, position = divmod(index, len(self.cycle))
        bucket = self.cycle[position]
        return BucketBatch(bucket, cycles * Counter(self.cycle)[bucket] + self.cycle[:position].count(bucket))
