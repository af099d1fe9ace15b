"""Sharp renders are told from the same pictures blurred; what is small or has a soft background is let be."""

import random
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.sharpness import BLURRED, blurred, sharpness

SIDE = 512


def scene(index: int, side: int = SIDE) -> Image.Image:
    return render(random_scene(unseen_identity(index), random.Random(index)), side)


def soft(image: Image.Image, share: float) -> Image.Image:
    """Blurred by a Gaussian of this share of the side, then saved as JPEG, whose blocks have edges of their own."""
    stream = BytesIO()
    image.filter(ImageFilter.GaussianBlur(share * min(image.size))).save(stream, "JPEG", quality=88)
    return Image.open(stream).convert("RGB")


def measured(image: Image.Image) -> float:
    value = sharpness(image.convert("L"))
    assert value is not None
    return value


@pytest.mark.parametrize("side", [SIDE, 1024, 1500])
def test_renders_are_sharp_and_blurred_ones_are_not(side: int) -> None:
    scenes = [scene(index, side) for index in range(5)]
    assert min(map(measured, scenes)) > 3 * BLURRED
    assert max(measured(soft(one, 0.006)) for one in scenes) < BLURRED / 2


def test_a_subject_before_a_soft_background_is_sharp() -> None:
    picture = soft(scene(1, 768), 0.02)
    assert measured(picture) < BLURRED
    picture.paste(scene(1, 768).crop((256, 256, 512, 512)), (256, 256))
    assert measured(picture) > BLURRED


def test_the_same_picture_larger_is_as_sharp_as_it_is_trained() -> None:
    """Photographs of many pixels that hold no more detail than a small one are no worse for training."""
    large = scene(2).resize((2048, 2048), Image.Resampling.LANCZOS)
    assert 0.5 < measured(large) / measured(scene(2)) < 2


def test_what_is_small_is_not_judged() -> None:
    assert sharpness(scene(0, 255).convert("L")) is None
    assert sharpness(Image.new("L", (300, 256))) == 0


def test_the_variance_is_that_of_every_row_and_column() -> None:
    """Against the definition: all rows, all tiles, the mean taken off."""
    grey = np.random.default_rng(0).integers(0, 256, (514, 514)).astype(np.int64)
    laplacian = grey[1:-1, :-2] + grey[1:-1, 2:] + grey[:-2, 1:-1] + grey[2:, 1:-1] - 4 * grey[1:-1, 1:-1]
    tiles = laplacian.reshape(8, 64, 8, 64).var(axis=(1, 3))
    assert measured(Image.fromarray(grey.astype(np.uint8))) == pytest.approx(np.sort(tiles.reshape(-1))[-4], rel=0.05)


def test_a_picture_far_below_its_set_is_blurred_where_another_set_is_that_soft() -> None:
    assert blurred([100.0, 4000.0, None, 5000.0]) == [0]
    assert blurred([100.0, 400.0, 500.0]) == []
    assert blurred([149.0, 151.0, 1e6, 1e6]) == [0]
    assert blurred([59.0, 10.0]) == [0, 1]
    assert blurred([None]) == blurred([]) == []
