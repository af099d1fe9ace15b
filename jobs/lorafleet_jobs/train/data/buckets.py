"""Sizes that training pictures are cut to, and which pictures each batch shows: pure functions of the batch's index.

A batch has one size. Each bucket (the pictures of one size) has an endless stream of epochs of its own, and buckets
take turns in proportion to their pictures, so that over time every picture comes equally often.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorafleet.sizes import bucket_sizes as shared_sizes
from lorafleet_jobs.train.data.geometry import Size
from lorafleet_jobs.train.generators import stream


def bucket_sizes(resolution: int) -> list[Size]:
    """The sizes that pictures of any shape are cut to: those the base is asked for (`lorafleet.sizes`)."""
    return [Size(height, width) for height, width in shared_sizes(resolution)]


def nearest(original: Size, sizes: Sequence[Size]) -> Size:
    """The size of the nearest shape, by the ratio of ratios."""

    def shape(size: Size) -> float:
        return math.log(size.width / size.height)

    return min(sizes, key=lambda size: abs(shape(size) - shape(original)))


@dataclass(frozen=True)
class Endless:
    """An endless stream of epochs over `count` things, each epoch in an order of its own."""

    count: int
    seed: int
    purpose: str
    number: int = 0
    """Tells the streams of one purpose apart."""

    def take(self, start: int, length: int) -> list[int]:
        """The things at places start ... start + length - 1 of the stream."""
        orders = {
            epoch: self._order(epoch) for epoch in range(start // self.count, (start + length - 1) // self.count + 1)
        }
        return [orders[place // self.count][place % self.count] for place in range(start, start + length)]

    def _order(self, epoch: int) -> list[int]:
        generator = stream(self.seed, self.purpose, self.number, epoch)
        return torch.randperm(self.count, generator=generator).tolist()


@dataclass(frozen=True)
class Turn:
    """Whose turn a batch is."""

    bucket: int
    ordinal: int
    """How many batches this bucket has had before."""


@dataclass(frozen=True)
class Turns:
    """How buckets of so many pictures take turns: in each cycle in proportion, and as evenly spread as can be."""

    cycle: tuple[int, ...]
    """Bucket by bucket."""

    @classmethod
    def of(cls, counts: Sequence[int]) -> Turns:
        """For buckets of `counts` pictures, none of them empty."""
        divisor = math.gcd(*counts)
        shares = [count // divisor for count in counts]
        places = sorted(((j + 0.5) / share, bucket) for bucket, share in enumerate(shares) for j in range(share))
        return cls(tuple(bucket for _, bucket in places))

    def at(self, index: int) -> Turn:
        """The turn of the index-th batch, counted from 0."""
        cycles, place = divmod(index, len(self.cycle))
        bucket = self.cycle[place]
        return Turn(bucket, cycles * Counter(self.cycle)[bucket] + self.cycle[:place].count(bucket))
