"""A row: one image between two denoising steps. It has its own sampler table, noise, guidance, adapters and prompts.

Knows tensors; refuses to know batches, threads and futures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lorafleet.errors import NonFiniteError
from lorafleet.numerics.sampling import Noise
from lorafleet.numerics.tables import SamplerTable
from lorafleet.numerics.text import Conditioning
from lorafleet_serve.adapters.layout import FlatAdapter
from lorafleet_serve.engine.requests import Settings

Shape = tuple[int, int, int]
"""Latent height and width, and tokens of the context."""
Call = tuple[int, ...]
"""Which UNet call a row steps in: rows whose keys are equal share one."""


class RowNoise:
    """Standard noise [1, c, h, w] of one request, rounded to the UNet's precision, in fp32.

    The last draw can be asked for again, so that a step which failed can be repeated.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> None:
        self._noise = Noise([seed], shape, device, dtype)
        self._drawn = 0
        self._last = torch.empty(0)

    def draw(self, number: int) -> Tensor:
        """The draw of this number, in the order of `engine.start`; numbers must not go back."""
        while self._drawn <= number:
            self._last = self._noise.draw()
            self._drawn += 1
        return self._last


@dataclass(frozen=True, eq=False)
class Inpainting:
    """What is kept of an init image at every step; Lugmayr et al. 2022 (RePaint), eq. 8, without its repetitions."""

    mask: Tensor
    """[1, 1, h, w], bool: where the image is made anew."""
    z: Tensor
    """The init image's latent [1, c, h, w]."""
    n: Tensor
    """The noise that hides it, the same at every step."""

    def blended(self, x: Tensor, table: SamplerTable, step: int) -> Tensor:
        """The latent before a step, or after the last, with what is kept as noisy as it."""
        return torch.where(self.mask, x, table.noised(self.z, self.n, step))


@dataclass(frozen=True, eq=False)
class Row:
    """One image being denoised, between two steps; a step makes a new row of it."""

    id: int
    settings: Settings
    table: SamplerTable
    noise: RowNoise
    adapters: tuple[tuple[FlatAdapter, float], ...]
    """Its adapters on the UNet with their scales, in the order of the request; none of scale 0."""
    positive: Conditioning
    negative: Conditioning
    """As long as the positive."""
    time_ids: Tensor
    """[1, 6], fp32."""
    x: Tensor
    """The latent [1, c, h, w], fp32."""
    x0_prev: Tensor
    step: int = 0
    draws: int = 1
    """How often its noise was drawn before the first step."""
    inpainting: Inpainting | None = None

    def stepped(self, x: Tensor, x0: Tensor) -> Row:
        """The row after a step that gave these."""
        step = self.step + 1
        if self.inpainting is not None:
            x = self.inpainting.blended(x, self.table, step)
        return replace(self, x=x, x0_prev=x0, step=step)

    @property
    def shape(self) -> Shape:
        """Only rows of one shape can share a UNet call: padding would change what attention sees."""
        return self.x.shape[-2], self.x.shape[-1], self.positive.context.shape[1]

    @property
    def unet_rows(self) -> int:
        """How many rows of a UNet call it takes: two under guidance, else one."""
        return 1 + self.guided

    @property
    def rank(self) -> int:
        """The sum of its adapters' ranks."""
        return sum(adapter.rank for adapter, _ in self.adapters)

    @property
    def guided(self) -> bool:
        """Whether the unconditional output matters, as in diffusers."""
        return self.settings.guided

    @property
    def done(self) -> bool:
        """Whether every step is taken."""
        return self.step == len(self.table)


def shared_call(row: Row) -> Call:
    """The call key by which all rows of one shape share a call: the least work. Images come out the same to rounding.

    The last bits of a product depend on the shape of the whole and, on many processors, on a row's index in it.
    """
    return row.shape


def own_call(row: Row) -> Call:
    """The call key of exact mode: every image has UNet calls of its own, each of its one row or its guidance pair.

    Prompts are encoded and images decoded one a call in any mode (`Pipeline.condition`, `LoadedBase.decode`). So no
    call's shape, and with `lorafleet.deterministic` no bit of an image, depends on more than its own request.
    """
    return (row.id,)


def non_finite(row: Row) -> NonFiniteError:
    """The error of a row whose latent holds NaN or infinity."""
    return NonFiniteError(
        f"the image became non-finite at step {row.step} of {len(row.table)}; lower the adapter scales or the guidance "
        "scale"
    )
