"""A base in memory and what an engine asks of it: condition, noise, decode, and where adapters lie.

Wraps `lorafleet.loaded.LoadedBase` with what only serving needs: caches, pictures, checks. Refuses to know queues and
which rows step when. Three threads may use it at once, each its own modules: `condition` and `pair` the text encoders,
`decode` the VAE, and whoever steps the UNet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypedDict

import torch
from PIL import Image
from torch import Tensor

from lorafleet.bases import Base
from lorafleet.bundle.adapter import Adapter
from lorafleet.errors import BaseModelError, NonFiniteError, first_line
from lorafleet.loaded import DTYPES, LoadedBase
from lorafleet.numerics.long_prompts import Weighted, encode_prompt, lengthened
from lorafleet.numerics.samplers import sampler_names, sampler_table
from lorafleet.numerics.text import Conditioning
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from lorafleet_serve.adapters.layout import Layout
from lorafleet_serve.engine.prompts import join_vectors
from lorafleet_serve.engine.rows import RowNoise

PROMPT_CACHE = 64


Worn = tuple[Adapter, float]
"""An adapter of a request and its scale."""
Identity = tuple[str, str, float]
"""What a prompt's encoding depends on: learned tokens, text encoder LoRA and its scale."""

PromptKey = tuple[tuple[Weighted, ...], tuple[Identity, ...], int]
"""A prompt, what it is encoded with, and how many layers are skipped."""


class Placement(TypedDict):
    """Where a tensor goes and in which precision."""

    device: torch.device
    dtype: torch.dtype


class Pipeline:
    """One base on one device, for inference."""

    def __init__(self, loaded: LoadedBase) -> None:
        sampler_table(loaded.base, None, 1)  # refuses a scheduler configuration that no table stands for
        self.loaded = loaded
        self.base = loaded.base
        self.samplers = sampler_names(loaded.base)
        self.layout = Layout.of(loaded.lora[UNET].shapes())
        self._prompts: OrderedDict[PromptKey, Conditioning] = OrderedDict()
        self.prompt_hits = self.prompt_misses = 0
        """Prompts found encoded, and encoded."""

    @classmethod
    def load(cls, base: Base, device: str = "cpu", precision: str = "fp32") -> Pipeline:
        """Reads a base from its diffusers folder; BaseModelError if a part is missing or no safetensors."""
        if precision not in DTYPES:
            raise BaseModelError(f"precision {precision!r} is unknown; allowed are {', '.join(DTYPES)}")
        try:
            return cls(LoadedBase.load(base, device, precision))
        except OSError as problem:
            raise BaseModelError(
                f"base {base.name!r} cannot be loaded from {base.path}: {first_line(problem)}"
            ) from problem

    @property
    def placement(self) -> Placement:
        """Where the UNet is and in which precision."""
        return {"device": self.loaded.device, "dtype": self.loaded.unet.dtype}

    @torch.inference_mode()
    def condition(
        self, prompt: Sequence[Weighted], worn: Sequence[Worn] = (), clip_skip: int | None = None
    ) -> Conditioning:
        """Encodes one prompt alone, so that the result does not depend on a batch; context [1, length k, w].

        `worn` are the request's adapters, whose learned tokens the pieces name and whose text encoder LoRA is carried.
        Equal prompts and adapters give the cached result. RequestError if the prompt is too long.
        """
        key = (tuple(prompt), tuple(_identity(adapter, scale) for adapter, scale in worn), clip_skip or 0)
        found = self._prompts.get(key)
        if found is not None:
            self.prompt_hits += 1
        else:
            self.prompt_misses += 1
            found = self._prompts[key] = self._encode(prompt, worn, clip_skip)
            if len(self._prompts) > PROMPT_CACHE:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return found

    def pair(
        self,
        prompt: Sequence[Weighted],
        negative: Sequence[Weighted] | None,
        worn: Sequence[Worn] = (),
        clip_skip: int | None = None,
    ) -> tuple[Conditioning, Conditioning]:
        """What both halves of guidance are told, of one length.

        A missing negative prompt is zeros where the base says so, else the empty prompt. Layers are skipped for the
        prompt alone, as in diffusers.
        """
        positive = self.condition(prompt, worn, clip_skip)
        if negative is None and self.loaded.zero_negative:
            return positive, Conditioning(torch.zeros_like(positive.context), torch.zeros_like(positive.pooled))
        other = self.condition(negative or (), worn)
        length = max(positive.context.shape[1], other.context.shape[1])
        return (
            lengthened(positive, length, lambda: self.condition((), worn, clip_skip)),
            lengthened(other, length, lambda: self.condition((), worn)),
        )

    def _encode(self, prompt: Sequence[Weighted], worn: Sequence[Worn], clip_skip: int | None) -> Conditioning:
        device = self.loaded.device
        vectors = join_vectors([adapter for adapter, _ in worn])
        there = None if vectors is None else (vectors[0].to(device), vectors[1].to(device))
        for part in (TEXT_ENCODER, TEXT_ENCODER_2):
            group = [
                ({name: factors.to(device=device) for name, factors in adapter.layers(part).items()}, scale)
                for adapter, scale in worn
            ]
            self.loaded.lora[part].carry([group])
        try:
            return encode_prompt(self.loaded.prompts, prompt, there, clip_skip)
        finally:
            for part in (TEXT_ENCODER, TEXT_ENCODER_2):
                self.loaded.lora[part].set(None)

    def noise(self, width: int, height: int, seed: int) -> RowNoise:
        """The noise of one picture of so many pixels."""
        factor = self.base.vae_factor
        shape = (int(self.loaded.unet.config.in_channels), height // factor, width // factor)
        return RowNoise(seed, shape, **self.placement)

    def decode(self, x: Tensor) -> Image.Image:
        """One latent [1, c, h, w] to a picture, rounded as diffusers' VaeImageProcessor does."""
        pixels = self.loaded.decode(x)[0]
        if not torch.isfinite(pixels).all():
            raise NonFiniteError("the decoded picture is not finite; lower the adapter scales or the guidance scale")
        levels = (pixels * 255).round().to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _identity(adapter: Adapter, scale: float) -> Identity:
    text = (adapter.weights_sha256, scale) if adapter.touches_text else ("", 0.0)
    return (adapter.vectors_sha256, *text)
