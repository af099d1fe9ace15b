"""Whether a picture is a screenshot of a phone or tablet. Knows their screens; refuses to know files.

Three signs together: the size of a screen to the pixel, bars of one colour above and below, and something else than
that colour between them. That no camera took it is for who calls to know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SCREENS = frozenset({
    (640, 960), (640, 1136), (750, 1334), (828, 1792), (1080, 1920), (1125, 2436), (1170, 2532), (1179, 2556),
    (1206, 2622), (1242, 2208), (1242, 2688), (1260, 2736), (1284, 2778), (1290, 2796), (1320, 2868),
    (768, 1024), (1488, 2266), (1536, 2048), (1620, 2160), (1640, 2360), (1668, 2224), (1668, 2388), (1668, 2420),
    (2048, 2732), (2064, 2752),
    (720, 1280), (720, 1520), (720, 1560), (720, 1600), (720, 1612), (1008, 2244), (1080, 2160), (1080, 2220),
    (1080, 2240), (1080, 2280), (1080, 2310), (1080, 2340), (1080, 2376), (1080, 2400), (1080, 2408), (1080, 2412),
    (1080, 2424), (1080, 2460), (1080, 2520), (1220, 2712), (1240, 2772), (1264, 2780), (1280, 2856), (1344, 2992),
    (1440, 2560), (1440, 2880), (1440, 2960), (1440, 3040), (1440, 3088), (1440, 3120), (1440, 3168), (1440, 3200),
    (1440, 3216),
})  # fmt: skip
"""Pixels of iPhones, iPads, and phones with Android, the shorter side first."""
_BAR = 0.025
"""Of the height: the thinnest status bars."""
_EDGE_ROWS = 2
"""Outermost rows of a bar, above or below all letters and signs."""
_MOSTLY = 0.6
"""Share of a bar that has its colour, whatever is written on it."""
_LEVELS = 6
"""Within so many of 255 levels of each channel a colour is the same, as a JPEG keeps it."""


def is_screenshot(image: Image.Image) -> bool:
    """Whether an RGB picture that no camera took has all signs of a screenshot."""
    if (min(image.size), max(image.size)) not in SCREENS:
        return False
    pixels = np.asarray(image)
    rows = max(_EDGE_ROWS, round(image.height * _BAR))
    above, below = pixels[:rows], pixels[-rows:][::-1]
    middle = pixels[image.height // 4 : image.height * 3 // 4]
    sides = np.concatenate([middle[:, :_EDGE_ROWS], middle[:, -_EDGE_ROWS:]], axis=1)
    return _is_bar(above) and _is_bar(below) and all(_share(sides, _colour(bar)) < _MOSTLY for bar in (above, below))


def _is_bar(strip: NDArray[np.uint8]) -> bool:
    """Whether a strip [rows, width, 3], its outermost row first, is mostly of one colour, and there wholly."""
    colour = _colour(strip)
    return _share(strip[:_EDGE_ROWS], colour) > 0.99 and _share(strip, colour) > _MOSTLY


def _colour(strip: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.asarray(np.median(strip[:_EDGE_ROWS].reshape(-1, 3), axis=0), dtype=np.int16)


def _share(pixels: NDArray[np.uint8], colour: NDArray[np.int16]) -> float:
    return float((np.abs(pixels.astype(np.int16) - colour) <= _LEVELS).all(axis=-1).mean())
