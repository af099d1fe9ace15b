"""Renders the pictures that the toy world is trained and measured on.

A sample is a picture with what it shows and the SDXL micro-conditioning it was made under. One in five is a crop of a
larger picture, so that the bases learn what `crop_coords_top_left` means.
"""

from __future__ import annotations

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from lorafleet.toy.render import body_share, render
from lorafleet.toy.world import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    Scene,
    caption,
    random_identity,
    random_scene,
)

SIDE = 32
LARGE = 40


@dataclass
class Pictures:
    """`pixels` [n, 3, 32, 32] uint8, `time_ids` [n, 6] float32, `captions`, and labels (-1: no word for it)."""

    pixels: torch.Tensor
    time_ids: torch.Tensor
    captions: list[str]
    labels: dict[str, torch.Tensor]


def _sample(scene: Scene, rng: random.Random) -> tuple[np.ndarray, list[int]]:
    if rng.random() < 0.8:
        return np.asarray(render(scene, SIDE)), [SIDE, SIDE, 0, 0, SIDE, SIDE]
    top, left = rng.randint(0, LARGE - SIDE), rng.randint(0, LARGE - SIDE)
    pixels = np.asarray(render(scene, LARGE))[top : top + SIDE, left : left + SIDE]
    return pixels, [LARGE, LARGE, top, left, SIDE, SIDE]


def labels_of(scene: Scene) -> dict[str, int]:
    """The attributes that the judge reads, as class indices, and whether one tone clearly is the object's colour.

    It is where it covers two thirds of the body: on half-and-half things people would not agree either.
    """
    word = scene.identity.body.word
    return {
        "class": CLASSES.index(scene.identity.noun),
        "colour": COLOURS.index(word) if word else -1,
        "background": tuple(BACKGROUNDS).index(scene.background),
        "clear": int(body_share(scene) >= 2 / 3),
    }


def _chunk(job: tuple[str, int, bool]) -> tuple[np.ndarray, list[list[int]], list[str], list[dict[str, int]]]:
    seed, count, crops = job
    rng = random.Random(seed)
    pixels, ids, captions, labels = [], [], [], []
    for _ in range(count):
        scene = random_scene(random_identity(rng), rng)
        picture, time_ids = (
            _sample(scene, rng) if crops else (np.asarray(render(scene, SIDE)), [SIDE, SIDE, 0, 0, SIDE, SIDE])
        )
        pixels.append(picture)
        ids.append(time_ids)
        captions.append(caption(scene, rng))
        labels.append(labels_of(scene))
    return np.stack(pixels), ids, captions, labels


def pictures(stream: str, count: int, workers: int = 2, crops: bool = True) -> Pictures:
    """Renders `count` random scenes of the named stream; the same stream and count give the same pictures."""
    size = 500
    jobs = [(f"{stream}-{i}", min(size, count - i * size), crops) for i in range((count + size - 1) // size)]
    with ProcessPoolExecutor(workers) as pool:
        chunks = list(pool.map(_chunk, jobs))
    return Pictures(
        pixels=torch.from_numpy(np.concatenate([c[0] for c in chunks])).permute(0, 3, 1, 2).contiguous(),
        time_ids=torch.tensor([row for c in chunks for row in c[1]], dtype=torch.float32),
        captions=[text for c in chunks for text in c[2]],
        labels={key: torch.tensor([row[key] for c in chunks for row in c[3]]) for key in chunks[0][3][0]},
    )


def to_unit(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0
