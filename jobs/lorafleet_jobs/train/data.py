"""A job's samples: images as latents, captions as token pieces, SDXL's time ids, drawn in an order of the job's own.

Latents are cached by *sample* (an image and whether it is mirrored), never by step, so that each keeps its own caption
and time ids. Cached is the VAE's posterior; a fresh latent is drawn from it at each use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lorafleet.errors import DataError
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.images import decode_image, read_image_bytes
from lorafleet_jobs.jobspec import JobSpec


@dataclass(frozen=True)
class Sample:
    """One image, mirrored or not, as the trainer uses it."""

    mean: Tensor  # posterior of the VAE, [1, c, h, w]
    std: Tensor
    caption: str
    time_ids: Tensor  # [1, 6]


@dataclass(frozen=True)
class Fitted:
    """A picture cut to the training resolution, and SDXL's record of how (Podell et al. 2023, section 2.2)."""

    pixels: Tensor  # [1, 3, h, w] in [-1, 1]
    time_ids: Tensor  # [1, 6]: original height and width, crop top and left, target height and width


def fit(image: Image.Image, resolution: int, mirrored: bool) -> Fitted:
    """Mirrors, resizes the shorter side to `resolution` and crops the middle.

    The original size is the picture's own, before resizing and after EXIF rotation. Mirroring comes first, so that the
    crop's `left` is the one the network sees.
    """
    if mirrored:
        image = ImageOps.mirror(image)
    width, height = image.size
    factor = resolution / min(width, height)
    size = (max(resolution, round(width * factor)), max(resolution, round(height * factor)))
    resized = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    cut = resized.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.asarray(cut, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    return Fitted(pixels, torch.tensor([[height, width, top, left, resolution, resolution]], dtype=torch.float32))


@torch.no_grad()
def load_samples(spec: JobSpec, loaded: LoadedBase, resolution: int) -> list[Sample]:
    """Every sample of a job, encoded; with `flip`, an image's mirrored twin follows it.

    Raises DataError if an image is gone, damaged, or not the one that was planned with.
    """
    samples = []
    for image in spec.images:
        picture = _as_planned(Path(spec.folder) / image.file, image.sha256)
        for mirrored in (False, True) if spec.recipe.flip else (False,):
            fitted = fit(picture, resolution, mirrored)
            posterior = loaded.vae.encode(fitted.pixels.to(loaded.device)).latent_dist
            samples.append(
                Sample(posterior.mean, posterior.std, image.caption or spec.instance_prompt, fitted.time_ids)
            )
    return samples


def _as_planned(path: Path, sha256: str) -> Image.Image:
    try:
        data = read_image_bytes(path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DataError("is not the file that was planned with; submit the manifest again")
        return decode_image(data)
    except DataError as problem:
        raise type(problem)(f"{path} {problem}") from None


def sample_order(count: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of sample indices: every sample once in each epoch, each epoch in a new order."""
    queue: list[int] = []
    while True:
        while len(queue) < batch_size:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:batch_size]
        del queue[:batch_size]


def draw_latents(samples: list[Sample], loaded: LoadedBase, generator: torch.Generator) -> Tensor:
    """Model-space latents [n, c, h, w] of a batch: z ~ N(mean, std^2), scaled; noise from the job's own generator."""
    mean = torch.cat([sample.mean for sample in samples])
    std = torch.cat([sample.std for sample in samples])
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return loaded.scale.to_model(mean + std * noise)
