"""The noise levels that denoisers are trained at by default, by the size of the latent.

Imports no torch, because `plan` uses it too.
"""

from __future__ import annotations

import math

from lorafleet.bases import Base
from lorafleet.config import Recipe

P_STD = 1.2


def mean_ln_sigma(side: float) -> float:
    """P_mean of ln sigma ~ N(P_mean, P_STD^2) for latents of `side` x `side`: a line in ln(side), to three decimals.

    It goes through -1.2 at 8 (Karras et al. 2022, table 1; kept on the toy base) and -0.4 at 64 (EDM2's for latents of
    64 x 64, Karras et al. 2024); at 128 it is -0.133. A larger picture keeps more of its layout under the same noise,
    since neighbouring pixels agree and their noise averages out. That argument alone asks for ln(side / 8), the whole
    shift of Hoogeboom et al. 2023 and Esser et al. 2024 (eq. 23), and so for 1.57 at 128. The line takes 0.385 of it:
    its levels at 128 are then, by signal-to-noise ratio, those of uniform timesteps on SDXL, with which subjects are
    learned at that size (ln sigma -0.21 +- 1.19 at sigma_data 0.5). Neither was compared on photographs.
    """
    return round(-1.2 + 0.8 * math.log(side / 8) / math.log(8), 3)


def latent_side(base: Base, recipe: Recipe) -> float:
    """The side of a job's square latents in latent pixels; with buckets about that of the square of the same area."""
    return (recipe.resolution or base.resolution) / base.vae_factor
