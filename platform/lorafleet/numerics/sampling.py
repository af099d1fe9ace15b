"""Sampling of one batch from one table, from noise to clean latents in one loop (`lorafleet.pictures` decodes them).

The serving engine steps rows that have tables of their own; its pictures must agree with those of this loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorafleet.numerics.tables import SamplerTable
from lorafleet.numerics.text import Conditioning

Predict = Callable[[Tensor, Tensor, Conditioning, Tensor], Tensor]


class Noise:
    """Standard noise of n rows, each from a CPU generator of its own, as diffusers draws it for one image in fp32.

    So a seed is one picture in every precision: torch's generators draw other numbers in half and double precision, for
    all or some of a tensor. `dtype` is what the numbers are rounded to.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._shape, self._device, self._dtype = (1, *shape), device, dtype

    def draw(self) -> Tensor:
        """The next noise [n, c, h, w], fp32: the first latent's, then that of each step that adds some."""
        rows = [torch.randn(self._shape, generator=own, dtype=torch.float32) for own in self._generators]
        return torch.cat(rows).to(self._dtype).to(self._device, torch.float32)


@torch.no_grad()
def sample(
    predict: Predict,
    table: SamplerTable,
    noise: Noise,
    positive: Conditioning,
    negative: Conditioning,
    time_ids: Tensor,
    guidance: float,
) -> Tensor:
    """Clean latents [n, c, h, w] from standard noise, with classifier-free guidance (Ho & Salimans 2022, eq. 6).

    `predict` is called with 2n rows, of which those of a picture are neighbours, the negative one first: so each
    picture may carry an adapter of its own (`numerics.rowlora`).
    """
    x = noise.draw() * table.init_noise_sigma
    pairs = Conditioning(
        torch.stack([negative.context, positive.context], dim=1).flatten(0, 1),
        torch.stack([negative.pooled, positive.pooled], dim=1).flatten(0, 1),
    )
    ids = time_ids.repeat_interleave(2, dim=0)
    x0_prev = torch.zeros_like(x)
    for i in range(len(table)):
        x_in = table.c_in[i].float() * x
        t = table.t[i].float().repeat(2 * len(x))
        uncond, cond = predict(x_in.repeat_interleave(2, dim=0), t, pairs, ids).unflatten(0, (-1, 2)).unbind(dim=1)
        output = uncond + guidance * (cond - uncond)
        x0 = table.c_skip[i].float() * x + table.c_out[i].float() * output
        x = table.A[i].float() * x + table.B[i].float() * x0 + table.C[i].float() * x0_prev
        if table.stochastic:
            x = x + table.D[i].float() * noise.draw()
        x0_prev = x0
    return x
