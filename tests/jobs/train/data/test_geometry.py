"""Cutting pictures: time ids against hand-worked tables, mirroring before cropping, masks cut like their pictures."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lorafleet_jobs.images import decode_image, measure_image
from lorafleet_jobs.train.data.geometry import OFFSETS, Size, latent_mask, pixels, views


def jpeg(width, height, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = BytesIO()
    Image.new("RGB", (width, height)).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "orientation", "window", "expected"),
    [
        # 90 x 60 to a square of 32: factor 32/60, 48 x 32, (48 - 32) / 2 = 8 off the left
        (90, 60, 1, (32, 32), [60, 90, 0, 8, 32, 32]),
        (60, 90, 1, (32, 32), [90, 60, 8, 0, 32, 32]),
        # stored 90 x 60, turned a quarter by its EXIF orientation: a portrait of 60 x 90, cut off the top
        (90, 60, 6, (32, 32), [90, 60, 8, 0, 32, 32]),
        (90, 60, 8, (32, 32), [90, 60, 8, 0, 32, 32]),
        # turned by half: its sides stay
        (90, 60, 3, (32, 32), [60, 90, 0, 8, 32, 32]),
        # a bucket of 24 high, 40 wide: the larger of 24/60 and 40/90 covers, 40 x 26.67 -> 27, (27 - 24) // 2 = 1
        (90, 60, 1, (24, 40), [60, 90, 1, 0, 24, 40]),
        # smaller than the window: enlarged, the original size says so
        (20, 16, 1, (32, 32), [16, 20, 0, 4, 32, 32]),
    ],
)
def test_time_ids_by_hand(width, height, orientation, window, expected):
    data = jpeg(width, height, orientation)
    original = Size(*measure_image(data))
    assert original == decode_image(data).size[::-1]
    [view] = views(original, Size(*window), flip=False, crop="center")
    assert view.time_ids(original).tolist() == [expected]
    assert pixels(decode_image(data), view).shape == (1, 3, *window)


def test_random_crops_and_flips_say_where_they_cut():
    """90 x 60 to 32: slack 16 along the width, nine windows 2 apart; each mirrored too."""
    found = views(Size(60, 90), Size(32, 32), flip=True, crop="random")
    assert [(v.mirrored, v.top, v.left) for v in found] == [(m, 0, 2 * i) for m in (False, True) for i in range(9)]


def test_the_crop_is_where_the_mirrored_picture_was_cut():
    """`left` is what the network sees: cutting the mirrored picture at `left`, not mirroring what was cut there."""
    ramp = Image.fromarray(np.tile(np.arange(96, dtype=np.uint8) * 2, (32, 1))).convert("RGB")
    for view in views(Size(32, 96), Size(32, 32), flip=True, crop="random"):
        first = (pixels(ramp, view)[0, 0, 0, 0] + 1) * 127.5 / 2
        assert round(first.item()) == (95 - view.left if view.mirrored else view.left)


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([(32, 32), (24, 40), (64, 16)]), st.booleans())
def test_every_view_lies_within_the_picture_and_there_are_few(height, width, window, flip):
    found = views(Size(height, width), Size(*window), flip, "random")
    assert len(set(found)) == len(found) <= 2 * OFFSETS
    for view in found:
        assert 0 <= view.top <= view.resized.height - view.window.height
        assert 0 <= view.left <= view.resized.width - view.window.width
        assert view.resized.height == view.window.height or view.resized.width == view.window.width
    assert views(Size(height, width), Size(*window), False, "center")[0].window == window


@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_is_cut_like_its_picture_and_averaged_over_latent_pixels(scale):
    """The mask as a picture through the same view: latent pixel by latent pixel its mean; at half the size alike."""
    large = np.zeros((64, 128), dtype=np.uint8)
    large[16:48, 80:128] = 255
    mask = Image.fromarray(large).resize((128 // scale, 64 // scale), Image.Resampling.BOX)
    for view in views(Size(64, 128), Size(64, 64), flip=True, crop="random"):
        seen = pixels(Image.fromarray(large).convert("RGB"), view)[:, :1] / 2 + 0.5
        expected = seen.unfold(2, 8, 8).unfold(3, 8, 8).mean(dim=(-1, -2))
        torch.testing.assert_close(latent_mask(mask, view, 8), expected, atol=1e-5, rtol=0)
    [middle] = views(Size(64, 128), Size(64, 64), flip=False, crop="center")  # cut from 32 to 96
    assert latent_mask(mask, middle, 8)[0, 0, 2].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    assert latent_mask(mask, middle, 8)[0, 0, 1].tolist() == [0] * 8
