"""Screenshots are known by three signs together; pictures that have two of them are let be."""

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.screenshots import is_screenshot

Colour = tuple[int, int, int]
PHONE = (1170, 2532)


def scene(width: int, height: int) -> Image.Image:
    return render(random_scene(unseen_identity(3), random.Random(0)), 256).resize((width, height))


def screen(size: tuple[int, int] = PHONE, bar: Colour = (0, 0, 0), text: Colour = (255, 255, 255)) -> Image.Image:
    """A picture in the middle of a screen, the time and the battery above it, signs below it."""
    width, height = size
    shot = Image.new("RGB", size, bar)
    shot.paste(scene(width, height // 2), (0, height // 4))
    draw = ImageDraw.Draw(shot)
    draw.text((width * 0.08, height * 0.008), "9:41", fill=text, font_size=height * 0.015)
    draw.rectangle((width * 0.85, height * 0.01, width * 0.93, height * 0.02), fill=text)
    for x in range(4):
        draw.ellipse((width * (0.1 + x / 4), height * 0.96, width * (0.14 + x / 4), height * 0.98), fill=text)
    return shot


@pytest.mark.parametrize("size", [PHONE, (1080, 2400), (1536, 2048), (2400, 1080)])
@pytest.mark.parametrize("bar", [(0, 0, 0), (255, 255, 255), (24, 25, 26)])
def test_a_picture_between_bars_on_a_screen(size: tuple[int, int], bar: Colour) -> None:
    assert is_screenshot(screen(size, bar, (128, 128, 128)))


def test_as_jpeg_too(tmp_path) -> None:
    screen().save(tmp_path / "a.jpg", quality=75)
    assert is_screenshot(Image.open(tmp_path / "a.jpg").convert("RGB"))


def test_another_size_is_none() -> None:
    assert not is_screenshot(screen((1171, 2532)))


def test_a_photograph_of_a_screens_size_is_none() -> None:
    assert not is_screenshot(scene(*PHONE))
    grain = np.random.default_rng(0).normal(0, 6, (2048, 1536, 3))
    sky = np.clip(np.linspace(230, 180, 2048)[:, None, None] + grain, 0, 255).astype(np.uint8)
    assert not is_screenshot(Image.fromarray(sky))


def test_a_thing_before_a_white_wall_is_none() -> None:
    picture = Image.new("RGB", PHONE, "white")
    picture.paste(scene(600, 600), (285, 900))
    assert not is_screenshot(picture)


def test_one_bar_is_none() -> None:
    picture = scene(*PHONE)
    picture.paste("black", (0, 0, PHONE[0], 200))
    assert not is_screenshot(picture)
