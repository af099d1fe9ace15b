"""The loss of every family of bases: w |F - F*|^2 on the network's raw output F, summed over the rows of a micro-batch.

What F* and w are is the objective's to say (`objectives`, `weighting`). Knows tensors; refuses to know whose rows they
are.
"""

from __future__ import annotations

from torch import Tensor


def weighted_squared_error(F: Tensor, F_target: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over rows of w times the mean of |F - F*|^2; a scalar.

    F and F_target are [n, c, h, w] and the weights w are [n]. With a mask [n, 1, h, w] the mean over pixels is weighted
    by it, so that a small subject learns as fast as a large one; no row of it may be zero all over.
    """
    error = (F - F_target).square().mean(dim=1, keepdim=True)
    if mask is None:
        return (w * error.mean(dim=(1, 2, 3))).sum()
    return (w * ((error * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3)))).sum()
