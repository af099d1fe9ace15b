"""Renders the pictures that the toy world is trained and measured on.

A sample is a picture with what it shows and the SDXL micro-conditioning it was made under. One in five is a crop of a
larger picture, so that the bases learn what `crop_coords_top_left` means; one in three says that it was made from a
larger one, as a photo of a subject may be.
"""

from __future__ import annotations

import os
import random
import time
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
    is_held_out,
    random_identity,
    random_scene,
)

SIDE = 64
"""Pixels of a side of the world that is made; `lorafleet.toy.render.SIDE` is that of the one that is shipped."""
CHUNK = 500  # pictures that one process renders at a time


@dataclass
class Pictures:
    """`pixels` [n, 3, h, w] uint8, `time_ids` [n, 6] float32, `captions`, and labels (-1: no word for it)."""

    pixels: torch.Tensor
    time_ids: torch.Tensor
    captions: list[str]
    labels: dict[str, torch.Tensor]


def _sample(scene: Scene, rng: random.Random, side: int) -> tuple[np.ndarray, list[int]]:
    large = side * 5 // 4
    if rng.random() < 0.8:
        original = rng.randint(side, 2 * side) if rng.random() < 0.4 else side
        return np.asarray(render(scene, side)), [original, original, 0, 0, side, side]
    top, left = rng.randint(0, large - side), rng.randint(0, large - side)
    pixels = np.asarray(render(scene, large))[top : top + side, left : left + side]
    return pixels, [large, large, top, left, side, side]


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


@dataclass(frozen=True)
class _Chunk:
    """Pictures that one process renders: the name of their random stream, how many, how large, crops among them."""

    stream: str
    count: int
    side: int
    crops: bool


def _rendered(chunk: _Chunk) -> tuple[np.ndarray, list[list[int]], list[str], list[dict[str, int]]]:
    rng, side = random.Random(chunk.stream), chunk.side
    pixels, ids, captions, labels = [], [], [], []
    for _ in range(chunk.count):
        scene = random_scene(random_identity(rng), rng)
        picture, time_ids = (
            _sample(scene, rng, side)
            if chunk.crops
            else (np.asarray(render(scene, side)), [side, side, 0, 0, side, side])
        )
        pixels.append(picture)
        ids.append(time_ids)
        captions.append(caption(scene, rng))
        labels.append(labels_of(scene))
    return np.stack(pixels), ids, captions, labels


def pictures(
    stream: str, count: int, workers: int = 0, crops: bool = True, side: int = SIDE, seconds: float = float("inf")
) -> Pictures:
    """Renders `count` random scenes of the named stream; the same stream and count give the same pictures.

    Uses as many processes as there are processors where `workers` is 0. After `seconds` it returns what there is.
    """
    jobs = [_Chunk(f"{stream}-{i}", min(CHUNK, count - i * CHUNK), side, crops) for i in range(-(-count // CHUNK))]
    chunks, until = [], time.monotonic() + seconds
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        for chunk in pool.map(_rendered, jobs):
            chunks.append(chunk)
            if time.monotonic() > until:
                pool.shutdown(cancel_futures=True)
                break
    return Pictures(
        pixels=torch.from_numpy(np.concatenate([c[0] for c in chunks])).permute(0, 3, 1, 2).contiguous(),
        time_ids=torch.tensor([row for c in chunks for row in c[1]], dtype=torch.float32),
        captions=[text for c in chunks for text in c[2]],
        labels={key: torch.tensor([row[key] for c in chunks for row in c[3]]) for key in chunks[0][3][0]},
    )


def trainable(labels: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which pictures [n] a base may see: all but the held-out combinations of class, colour and background."""
    rows = zip(*(labels[name].tolist() for name in ("class", "colour", "background")), strict=True)
    backgrounds = tuple(BACKGROUNDS)
    return torch.tensor([c < 0 or not is_held_out(CLASSES[n], COLOURS[c], backgrounds[b]) for n, c, b in rows])


def to_unit(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels as floats in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0
