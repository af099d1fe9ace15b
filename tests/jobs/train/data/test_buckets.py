"""Buckets and the order of batches: SDXL's own sizes, every image equally often, and nothing but the index."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.data.buckets import BucketCycle, EpochStream, bucket_sizes, nearest
from lorafleet_jobs.train.data.geometry import Size

# Podell et al. 2023, appendix I: height x width, those with the widest shape at each height up to the square.
SDXL = [(512, 2048), (576, 1792), (640, 1600), (704, 1472), (768, 1344), (832, 1216), (896, 1152), (960, 1088),
        (1024, 1024)]  # fmt: skip


def test_at_1024_the_sizes_are_sdxls_own():
    assert bucket_sizes(1024) == sorted({*SDXL, *((w, h) for h, w in SDXL)})
    assert bucket_sizes(32) == [(16, 64), (24, 40), (32, 32), (40, 24), (64, 16)]


@given(st.integers(4, 256).map(lambda n: 8 * n))
def test_sizes_have_about_the_area_and_no_extreme_shape(resolution):
    sizes = bucket_sizes(resolution)
    step = 64 if resolution >= 512 else 8
    assert len(sizes) == len(set(sizes))
    for size in sizes:
        assert size.height % step == size.width % step == 0
        assert resolution**2 * 0.5 < size.height * size.width <= resolution**2
        assert max(size) <= 4 * min(size)
        assert (size.width, size.height) in sizes
    square = resolution // step * step
    assert (square, square) in sizes


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_nearest_shape_by_ratio(height, width):
    """No other bucket is nearer as a ratio of ratios, taken whichever way it is above 1."""
    sizes = bucket_sizes(1024)

    def off(size):
        ratio = (size.width * height) / (size.height * width)
        return max(ratio, 1 / ratio)

    assert off(nearest(Size(height, width), sizes)) <= min(map(off, sizes)) * (1 + 1e-9)


@pytest.mark.parametrize("base", ["toy-sdxl", "toy-playground"])
def test_the_toy_unet_takes_every_toy_size(base):
    loaded = LoadedBase.load(find_base(base))
    for height, width in {*bucket_sizes(32), *bucket_sizes(40)}:
        x = torch.zeros(1, 4, height // loaded.base.vae_factor, width // loaded.base.vae_factor)
        ids = torch.tensor([[height, width, 0, 0, height, width]])
        assert loaded.predict(x, torch.ones(1), loaded.unconditional(1), ids).shape == x.shape


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 7), st.integers(0, 40))
def test_an_endless_stream_is_whole_epochs_wherever_it_is_cut(count, length, start):
    endless = EpochStream(count, seed=3, purpose="order")
    whole = endless.take(0, count * 60)
    assert all(sorted(whole[i : i + count]) == list(range(count)) for i in range(0, len(whole), count))
    assert endless.take(start, length) == whole[start : start + length]
    if count > 3:
        assert len({tuple(whole[i : i + count]) for i in range(0, len(whole), count)}) > 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 4))
def test_over_time_every_image_comes_equally_often(counts, batch_size):
    """In as many batches as there are images, each image comes once for each row of a batch."""
    turns, seen = BucketCycle.of(counts), Counter()
    for index in range(sum(counts)):
        turn = turns.at(index)
        order = EpochStream(counts[turn.bucket], 0, "order", turn.bucket)
        seen.update((turn.bucket, i) for i in order.take(turn.ordinal * batch_size, batch_size))
    assert seen == {(bucket, i): batch_size for bucket, count in enumerate(counts) for i in range(count)}


@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(1, 200))
def test_buckets_take_turns_in_proportion_all_along(counts, batches):
    """Never further than one batch from its share for each other bucket; and ordinals count without a gap."""
    turns = [BucketCycle.of(counts).at(index) for index in range(batches)]
    for bucket, count in enumerate(counts):
        had = [turn.ordinal for turn in turns if turn.bucket == bucket]
        assert had == list(range(len(had)))
        assert abs(len(had) - batches * count / sum(counts)) <= len(counts)
