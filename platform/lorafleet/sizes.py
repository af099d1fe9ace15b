"""The picture sizes that a base is trained on and asked for: a function of its native side alone. Imports no torch."""

from __future__ import annotations

LONGEST = 4
"""The largest ratio of a size's long side to its short one (Podell et al. 2023, appendix I)."""


def bucket_sizes(resolution: int) -> tuple[tuple[int, int], ...]:
    """Sizes (height, width) of all shapes, landscape and portrait, of about resolution^2 pixels each, sorted.

    For every short side the longest long side that keeps the area within resolution^2, in multiples of 64 pixels, or
    of 8 below 512: SDXL's list has all of these at 1024 (Podell et al. 2023, appendix I).
    """
    step = 64 if resolution >= 512 else 8
    square = resolution // step * step
    sizes = {(square, square)}
    for short in range(step, resolution + 1, step):
        long = resolution * resolution // short // step * step
        if short <= long <= LONGEST * short:
            sizes |= {(short, long), (long, short)}
    return tuple(sorted(sizes))
