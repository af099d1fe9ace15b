"""Draws scenes of the toy world as small pictures.

Knows shapes and markings. Refuses to know captions and models. Everything is a polygon in object
coordinates ([-1, 1]^2, y down), drawn four times too large and reduced.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from lorafleet.toy.backgrounds import RGB, paint_background
from lorafleet.toy.world import Colour, Identity, Scene

Point = tuple[float, float]
Polygon = Sequence[Point]
Shapes = tuple[list[Polygon], list[Polygon]]  # body, accent

SIDE = 32
"""Pixels of a side of what the shipped bases paint."""
SUPERSAMPLE = 4


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = math.tau) -> Polygon:
    angles = [start + (stop - start) * i / 24 for i in range(25)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def _mug(d: float) -> Shapes:
    r = 0.32 + 0.16 * d
    ring = [
        *_ellipse(0.45, 0.0, 0.5, r + 0.12, -1.57, 1.57),
        *reversed(_ellipse(0.45, 0.0, 0.28, r - 0.1, -1.57, 1.57)),
    ]
    return [_box(-0.8, -0.75, 0.45, 0.8)], [ring]


def _boat(d: float) -> Shapes:
    hull = [(-1.0, 0.25), (1.0, 0.25), (0.6, 0.85), (-0.6, 0.85)]
    return [hull], [[(-0.08, -1.0), (-0.08, 0.15), (0.5 + 0.4 * d, 0.15)], [(-0.2, -0.7), (-0.2, 0.15), (-0.75, 0.15)]]


def _house(d: float) -> Shapes:
    return [_box(-0.7, -0.15, 0.7, 0.9)], [
        [(-1.0, -0.15), (1.0, -0.15), (0.0, -0.75 - 0.25 * d)],
        _box(-0.18, 0.35, 0.18, 0.9),
    ]


def _fish(d: float) -> Shapes:
    tail = [(0.5, 0.0), (1.0, -0.35 - 0.3 * d), (1.0, 0.35 + 0.3 * d)]
    return [_ellipse(-0.2, 0.0, 0.8, 0.52)], [tail, [(-0.45, -0.48), (0.15, -0.48), (0.1, -0.85)]]


def _star(d: float) -> Shapes:
    inner = 0.42 + 0.1 * d
    points = [
        (
            (1.0 if i % 2 == 0 else inner) * math.sin(i * math.pi / 5),
            -(1.0 if i % 2 == 0 else inner) * math.cos(i * math.pi / 5),
        )
        for i in range(10)
    ]
    return [points], [_ellipse(0.0, 0.0, 0.24, 0.24)]


def _tree(d: float) -> Shapes:
    top = [(0.0, -1.0), (0.62, -0.1), (0.3, -0.1), (0.85, 0.5), (-0.85, 0.5), (-0.3, -0.1), (-0.62, -0.1)]
    return [top], [_box(-0.16 - 0.1 * d, 0.5, 0.16 + 0.1 * d, 1.0)]


def _car(d: float) -> Shapes:
    top = -0.35 - 0.25 * d
    profile = [(-1.0, 0.05), (-0.6, 0.0), (-0.4, top), (0.35, top), (0.6, 0.0), (1.0, 0.1), (1.0, 0.5), (-1.0, 0.5)]
    return [profile], [_ellipse(-0.52, 0.5, 0.28, 0.28), _ellipse(0.52, 0.5, 0.28, 0.28)]


def _bottle(d: float) -> Shapes:
    shoulder = -0.35 + 0.2 * d
    glass = [
        (-0.18, -0.7),
        (0.18, -0.7),
        (0.18, shoulder),
        (0.48, shoulder + 0.3),
        (0.48, 1.0),
        (-0.48, 1.0),
        (-0.48, shoulder + 0.3),
        (-0.18, shoulder),
    ]
    return [glass], [_box(-0.24, -1.0, 0.24, -0.68)]


def _mushroom(d: float) -> Shapes:
    width = 0.22 + 0.18 * d
    return [_ellipse(0.0, 0.1, 0.95, 0.95, math.pi, math.tau)], [_box(-width, 0.1, width, 0.9)]


def _dog(d: float) -> Shapes:
    torso = _ellipse(0.2, 0.1, 0.65, 0.36)
    head = _ellipse(-0.62, -0.4, 0.36, 0.32)
    legs = [_box(-0.32, 0.2, -0.08, 0.95), _box(0.48, 0.2, 0.72, 0.95)]
    ear = [(-0.62, -0.7), (-0.34, -0.62), (-0.28, -0.05 + 0.25 * d), (-0.5, -0.15)]
    tail = [(0.7, -0.02), (1.0, -0.6 - 0.2 * d), (0.88, -0.02)]
    neck = [(-0.7, -0.2), (-0.3, -0.5), (0.2, -0.15), (-0.3, 0.3)]
    return [torso, head, neck, *legs], [ear, tail]


DRAW: dict[str, Callable[[float], Shapes]] = {
    "mug": _mug,
    "boat": _boat,
    "house": _house,
    "fish": _fish,
    "star": _star,
    "tree": _tree,
    "car": _car,
    "bottle": _bottle,
    "mushroom": _mushroom,
    "dog": _dog,
}


def rgb(colour: Colour) -> RGB:
    """A colour as 8-bit RGB."""
    r, g, b = colorsys.hsv_to_rgb(colour.hue / 360, colour.saturation, colour.value)
    return round(255 * r), round(255 * g), round(255 * b)


def _marking(
    identity: Identity, body: Sequence[Polygon], side: int, place: Callable[[Polygon], list[Point]]
) -> Image.Image:
    """Mask of the marking, laid out around the body's middle over the whole canvas; the caller cuts it to the body."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    xs, ys = [x for p in body for x, _ in p], [y for p in body for _, y in p]
    cx, cy = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    r = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    a, period = identity.marking_angle, identity.marking_period
    c, s = math.cos(a), math.sin(a)

    def turned(polygon: Polygon) -> list[Point]:
        return place([(cx + r * (x * c - y * s), cy + r * (x * s + y * c)) for x, y in polygon])

    if identity.marking == "striped":
        for i in range(-4, 5):
            draw.polygon(turned(_box((i - 0.2) * period, -2, (i + 0.2) * period, 2)), 255)
    elif identity.marking == "spotted":
        spot = 0.28 * period
        for i in range(-4, 5):
            for j in range(-4, 5):
                draw.polygon(turned(_ellipse((i + 0.5 * (j % 2)) * period, j * period * 0.87, spot, spot)), 255)
    elif identity.marking == "two-tone":
        draw.polygon(turned(_box(-2, 0.12, 2, 2)), 255)
    return mask


def body_share(scene: Scene, side: int = 64) -> float:
    """How much of the visible body shows its own tone rather than the marking's, 0-1."""
    body, accent, marking = _masks(scene, side)
    visible = ImageChops.subtract(body, accent)
    own = ImageChops.subtract(visible, marking)
    return sum(own.histogram()[1:]) / max(1, sum(visible.histogram()[1:]))


def _masks(scene: Scene, side: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    identity, half = scene.identity, side / 2
    sx = scene.scale * half * min(1.0, identity.aspect) * (-1 if scene.flip else 1)
    sy = scene.scale * half * min(1.0, 1 / identity.aspect)
    c, s = math.cos(scene.tilt), math.sin(scene.tilt)
    ox, oy = half * (1 + scene.x), half * (1 + scene.y)

    def place(polygon: Polygon) -> list[Point]:
        return [(ox + sx * x * c - sy * y * s, oy + sx * x * s + sy * y * c) for x, y in polygon]

    shapes = DRAW[identity.noun](identity.detail)
    masks = []
    for polygons in shapes:
        mask = Image.new("L", (side, side), 0)
        draw = ImageDraw.Draw(mask)
        for polygon in polygons:
            draw.polygon(place(polygon), 255)
        masks.append(mask)
    body, accent = masks
    return body, accent, ImageChops.multiply(body, _marking(identity, shapes[0], side, place))


def widened(mask: Image.Image, by: int) -> Image.Image:
    """A mask whose shapes are wider by some pixels at each side: what Pillow's MaxFilter gives, a hundred times faster.

    A maximum over a square is one over columns of those over rows, and one over 2n values is the larger of two over n.
    """
    values = np.pad(np.asarray(mask), by)
    for _ in (0, 1):
        values, width = values.swapaxes(0, 1), 1
        while width <= 2 * by:
            step = min(width, 2 * by + 1 - width)
            values, width = np.maximum(values[step:], values[:-step]), width + step
    return Image.fromarray(values)


def render(scene: Scene, side: int = SIDE) -> Image.Image:
    """Draws a scene as an RGB picture of `side` x `side` pixels; the same scene gives the same pixels."""
    big = side * SUPERSAMPLE
    rng = random.Random(scene.seed)
    image = paint_background(scene.background, big, rng)
    body, accent, marking = _masks(scene, big)
    whole = ImageChops.lighter(body, accent)
    image.paste((30, 26, 30), mask=widened(whole, round(0.75 * big / 32)))
    image.paste(rgb(scene.identity.body), mask=body)
    image.paste(rgb(scene.identity.accent), mask=marking)
    image.paste(rgb(scene.identity.accent), mask=accent)
    return image.resize((side, side), Image.Resampling.BOX)
