"""Where a row starts: in noise alone, or in an init image with the noise of the step that its strength begins at.

A seed is one picture. Its generator draws in the order of diffusers' pipelines: for an init image the posterior of the
VAE, then the first latent's noise, then, with a mask, one that diffusers spends on the masked picture, which a UNet of
four channels does not see; then those of a sampler that adds noise.

Knows tensors; refuses to know adapters and prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafleet.numerics.samplers import sampler_table
from lorafleet.numerics.tables import SamplerTable
from lorafleet_serve.engine.init_image import InitImage
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import Settings
from lorafleet_serve.engine.rows import Inpainting, RowNoise


@dataclass(frozen=True, eq=False)
class Start:
    """The state of a row before its first step, by the names of its fields."""

    table: SamplerTable
    noise: RowNoise
    x: Tensor
    draws: int = 1
    inpainting: Inpainting | None = None


def start_of(settings: Settings, model: Pipeline) -> Start:
    """Where the row of a request starts; encodes its init image. Torch's errors, if memory is short."""
    request = settings.request
    table = sampler_table(model.base, settings.scheduler, settings.steps)
    noise = model.noise(settings.width, settings.height, request.seed)
    if request.init is None:
        return Start(table, noise, noise.draw(0) * table.init_noise_sigma)
    table = table.begun_at(settings.first_step)
    z = model.encode(request.init, noise.draw(0))
    n = noise.draw(1)
    x = table.noised(z, n, 0)
    if request.init.mask is None:
        return Start(table, noise, x, draws=2)
    if request.init.strength == 1:  # as in diffusers: nothing of the picture is left where it is made anew
        x = n * table.init_noise_sigma
    return Start(table, noise, x, draws=3, inpainting=Inpainting(_latent_mask(request.init, z), z, n))


def _latent_mask(init: InitImage, z: Tensor) -> Tensor:
    """The mask [1, 1, h, w] of latents like `z`, each by the pixel at its upper left, as diffusers takes it."""
    width, height = init.size
    pixels = torch.frombuffer(bytearray(init.mask or b""), dtype=torch.uint8).view(1, 1, height, width)
    factor = height // z.shape[-2]
    return pixels[..., ::factor, ::factor].bool().to(z.device)
