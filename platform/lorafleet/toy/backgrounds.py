"""Paints the backgrounds of the toy world. Texture is only ever shifted, never laid out anew.

Specks at free positions would spend the small VAE's bits on what nobody asks for (`docs/log.md`, 2026-11-20).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Canvas:
    """A picture being painted: `unit` is a pixel of the reduced picture, `light` dims every colour alike."""

    draw: ImageDraw.ImageDraw
    side: int
    light: float
    rng: random.Random

    @property
    def unit(self) -> float:
        """Canvas pixels in one pixel of a 32-pixel picture."""
        return self.side / 32

    def shade(self, colour: RGB) -> RGB:
        """A colour under this picture's light."""
        r, g, b = (round(channel * self.light) for channel in colour)
        return r, g, b


def _beach(c: Canvas) -> None:
    c.draw.rectangle((0, 0, c.side, c.side * c.rng.uniform(0.35, 0.5)), c.shade((150, 205, 240)))


def _specks(colour: RGB, radius: float, seed: int, count: int) -> Callable[[Canvas], None]:
    rng = random.Random(seed)
    places = [(rng.random(), rng.random()) for _ in range(count)]

    def paint(c: Canvas) -> None:
        dx, dy = c.rng.randrange(4) * 8 * c.unit, c.rng.randrange(4) * 8 * c.unit
        for px, py in places:
            x, y, r = (px * c.side + dx) % c.side, (py * c.side + dy) % c.side, radius * c.unit
            c.draw.ellipse((x - r, y - r, x + r, y + r), c.shade(colour))

    return paint


def _bricks(c: Canvas) -> None:
    mortar, width, shift = c.shade((214, 196, 180)), round(0.9 * c.unit), c.rng.randrange(4) * c.unit
    for row in range(7):
        y = row * 6 * c.unit + shift - 6 * c.unit
        c.draw.line((0, y, c.side, y), mortar, width)
        for column in range(5):
            x = (column * 8 + 4 * (row % 2)) * c.unit - shift
            c.draw.line((x, y, x, y + 6 * c.unit), mortar, width)


def _checkers(c: Canvas) -> None:
    step, dx = 8 * c.unit, c.rng.randrange(4) * 2 * c.unit
    for i in range(-1, 5):
        for j in range(-1, 5):
            if (i + j) % 2:
                box = (i * step + dx, j * step + dx, (i + 1) * step + dx, (j + 1) * step + dx)
                c.draw.rectangle(box, c.shade((70, 70, 74)))


def _sea(c: Canvas) -> None:
    shift = c.rng.randrange(3) * 2 * c.unit
    for row in range(-1, 7):
        y = row * 6 * c.unit + shift
        wave = [(x, y + 1.2 * c.unit * math.sin(x / c.unit * 0.9 + row)) for x in range(0, c.side + 4, 4)]
        c.draw.line(wave, c.shade((120, 185, 220)), round(1.1 * c.unit))


def _curtain(c: Canvas) -> None:
    shift = c.rng.randrange(3) * 2 * c.unit
    for column in range(-1, 7):
        x = column * 6 * c.unit + shift
        c.draw.rectangle((x, 0, x + 2.4 * c.unit, c.side), c.shade((88, 40, 116)))


PAINT: dict[str, tuple[RGB, Callable[[Canvas], None]]] = {
    "beach": ((226, 200, 140), _beach),
    "snow": ((238, 243, 250), _specks((196, 212, 236), 1.2, seed=1, count=9)),
    "grass": ((96, 160, 70), _specks((60, 120, 44), 1.2, seed=2, count=14)),
    "night": ((22, 24, 58), _specks((240, 236, 190), 0.8, seed=3, count=9)),
    "bricks": ((168, 84, 66), _bricks),
    "checkers": ((225, 225, 225), _checkers),
    "sea": ((40, 110, 165), _sea),
    "curtain": ((122, 66, 150), _curtain),
}


def paint_background(name: str, side: int, rng: random.Random) -> Image.Image:
    """A background of `side` x `side` pixels: its ground colour, then its texture."""
    ground, paint = PAINT[name]
    light = rng.uniform(0.88, 1.0)
    image = Image.new("RGB", (side, side))
    canvas = Canvas(ImageDraw.Draw(image), side, light, rng)
    canvas.draw.rectangle((0, 0, side, side), canvas.shade(ground))
    paint(canvas)
    return image
