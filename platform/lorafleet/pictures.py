"""Pictures from a base in memory, one batch at a time with one sampler for all rows: validation, class images, scores.

Whoever wants an adapter in them installs it first (`LoadedBase.carrying`). Refuses to know jobs and requests: the
serving engine, whose rows come and go between steps, has a loop of its own that must agree with this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.samplers import sampler_table
from lorafleet.numerics.sampling import Noise, Predict, sample
from lorafleet.numerics.text import Conditioning


@torch.no_grad()
def sample_latents(
    loaded: LoadedBase,
    positive: Conditioning,
    negative: Conditioning,
    seeds: Sequence[int],
    *,
    side: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    predict: Predict | None = None,
) -> Tensor:
    """Clean model latents [n, c, h, w] of square pictures, one for each seed and row of conditioning.

    `negative` has as many rows as `positive`. `side` is in pixels; side, steps and guidance are the base's own by
    default, and so are the sampler and `predict`. Raises BaseModelError if the base's scheduler has no table.
    """
    base = loaded.base
    side = side or base.resolution
    latent = side // base.vae_factor
    return sample(
        predict or loaded.predict,
        table=sampler_table(base, None, steps or base.default_steps),
        noise=Noise(seeds, (loaded.vae.config.latent_channels, latent, latent), loaded.device),
        positive=positive,
        negative=negative,
        time_ids=torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.float32).repeat(len(seeds), 1),
        guidance=base.default_guidance if guidance is None else guidance,
    )


def sample_pictures(
    loaded: LoadedBase,
    positive: Conditioning,
    negative: Conditioning,
    seeds: Sequence[int],
    *,
    side: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
) -> Tensor:
    """Pictures [n, 3, side, side] in [0, 1]: what `sample_latents` returns, decoded."""
    latents = sample_latents(loaded, positive, negative, seeds, side=side, steps=steps, guidance=guidance)
    return loaded.decode(latents)


def to_image(pixels: Tensor) -> Image.Image:
    """One picture [3, h, w] in [0, 1] as 8-bit RGB, rounded to the nearest value."""
    return Image.fromarray((pixels.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))
