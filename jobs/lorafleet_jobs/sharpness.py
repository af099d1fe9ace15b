"""How sharp a picture is, and which of a set are blurred. Knows brightness; refuses to know files.

The variance of the Laplacian is taken tile by tile, and that of the sharpest tiles counts: a portrait before a blurred
background is sharp. It is judged at the size at which photographs are trained, where a large one may be blurred.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

LEAST_SIDE = 256
"""Smaller pictures are not judged: what they lack is size."""
BLURRED = 60.0
"""Squared levels of 255; sharp photographs have 300 and more, those blurred by 0.4 % of their side 20 and less."""
DOUBTFUL, FAR_BELOW = 150.0, 1 / 20
"""Below the first, a picture is blurred if it has less than this share of its set's median."""
_SEEN_SIDE = 512
_TILES = 8
_SHARPEST = 4
_EVERY = 4


def sharpness(grey: Image.Image) -> float | None:
    """The variance of the Laplacian in the fourth sharpest of 8 x 8 tiles of an L picture; None for a small one.

    The picture is first reduced by a whole factor, until its shorter side has less than twice 512 pixels. Every fourth
    row is enough for a variance.
    """
    if min(grey.size) < LEAST_SIDE:
        return None
    factor = min(grey.size) // _SEEN_SIDE
    x = np.asarray(grey.reduce(factor) if factor > 1 else grey)
    above, here, below = (x[k : len(x) - 2 + k : _EVERY].astype(np.int16) for k in range(3))
    laplacian = above[:, 1:-1] + below[:, 1:-1]
    laplacian += here[:, :-2]
    laplacian += here[:, 2:]
    laplacian -= 4 * here[:, 1:-1]
    height, width = (side // _TILES for side in laplacian.shape)
    cut = laplacian[: height * _TILES, : width * _TILES].astype(np.float32)
    tiles = cut.reshape(_TILES, height, _TILES, width)
    variances = np.einsum("ahbw,ahbw->ab", tiles, tiles) / (height * width)  # a Laplacian's mean is next to nothing
    return float(np.partition(variances.reshape(-1), -_SHARPEST)[-_SHARPEST])


def blurred(values: Sequence[float | None]) -> list[int]:
    """Which of a set's pictures are blurred, by their sharpness: in themselves, or far below the others."""
    judged = [value for value in values if value is not None]
    bound = min(DOUBTFUL, float(np.median(judged)) * FAR_BELOW) if judged else 0.0
    return [i for i, value in enumerate(values) if value is not None and value < max(BLURRED, bound)]
