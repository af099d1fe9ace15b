"""A base in memory and what an engine asks of it: condition, adapters in place, first noise, decode.

Wraps `lorafleet.loaded.LoadedBase` with what only serving needs: caches, pictures, checks. Refuses to know queues,
threads and which rows step when. Not thread-safe: the engine's thread owns it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch import Tensor

from lorafleet.adapters import Adapter
from lorafleet.bases import Base
from lorafleet.errors import BaseModelError, NonFiniteError
from lorafleet.loaded import DTYPES, LoadedBase
from lorafleet.numerics.factors import Factors
from lorafleet.numerics.samplers import sampler_names, sampler_table
from lorafleet.numerics.text import Conditioning, Piece
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from lorafleet_serve.prompts import join_vectors

PROMPT_CACHE = 64


Worn = tuple[Adapter, float]
"""An adapter of a request and its scale."""
Identity = tuple[str, str, float]
"""What a prompt's encoding depends on: learned tokens, text encoder LoRA and its scale."""


class Placement(TypedDict):
    """Where a tensor goes and in which precision."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class PlacedAdapter:
    """An adapter's layers on the UNet's device and in its precision; lives as long as rows use it."""

    host: Adapter
    layers: dict[str, Factors]


class Pipeline:
    """One base on one device, for inference."""

    def __init__(self, loaded: LoadedBase) -> None:
        sampler_table(loaded.base, None, 1)  # refuses a scheduler configuration that no table stands for
        self.loaded = loaded
        self.base = loaded.base
        self.samplers = sampler_names(loaded.base)
        self._prompts: OrderedDict[tuple[tuple[Piece, ...], tuple[Identity, ...]], Conditioning] = OrderedDict()
        self._placed: WeakValueDictionary[int, PlacedAdapter] = WeakValueDictionary()

    @classmethod
    def load(cls, base: Base, device: str = "cpu", precision: str = "fp32") -> Pipeline:
        """Reads a base from its diffusers folder; BaseModelError if a part is missing or no safetensors."""
        if precision not in DTYPES:
            raise BaseModelError(f"precision {precision!r} is unknown; allowed are {', '.join(DTYPES)}")
        try:
            return cls(LoadedBase.load(base, device, precision))
        except OSError as problem:
            said = (str(problem).splitlines() or [type(problem).__name__])[0]
            raise BaseModelError(f"base {base.name!r} cannot be loaded from {base.path}: {said}") from problem

    @property
    def placement(self) -> Placement:
        """Where the UNet is and in which precision."""
        return {"device": self.loaded.device, "dtype": self.loaded.unet.dtype}

    @torch.inference_mode()
    def condition(self, pieces: Sequence[Piece], worn: Sequence[Worn] = ()) -> Conditioning:
        """Encodes one prompt alone, so that the result does not depend on a batch; [1, ...].

        `worn` are the request's adapters, whose learned tokens the pieces name and whose text encoder LoRA is carried.
        Equal pieces and adapters give the cached result.
        """
        key = (tuple(pieces), tuple(_identity(adapter, scale) for adapter, scale in worn))
        found = self._prompts.get(key)
        if found is None:
            found = self._prompts[key] = self._encode(pieces, worn)
            if len(self._prompts) > PROMPT_CACHE:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return found

    def no_negative(self, positive: Conditioning, worn: Sequence[Worn] = ()) -> Conditioning:
        """What a missing negative prompt is: zeros where the base says so, else the empty prompt."""
        if self.loaded.zero_negative:
            return Conditioning(torch.zeros_like(positive.context), torch.zeros_like(positive.pooled))
        return self.condition([], worn)

    def _encode(self, pieces: Sequence[Piece], worn: Sequence[Worn]) -> Conditioning:
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
            return self.loaded.prompts.encode(self.loaded.prompts.token_ids(pieces), there)
        finally:
            for part in (TEXT_ENCODER, TEXT_ENCODER_2):
                self.loaded.lora[part].set(None)

    def place(self, host: Adapter) -> PlacedAdapter:
        """The adapter on the device, shared by all rows that use it at the same time."""
        placed = self._placed.get(id(host))
        if placed is None:
            there = self.placement
            layers = {name: factors.to(**there) for name, factors in host.layers(UNET).items()}
            placed = self._placed[id(host)] = PlacedAdapter(host, layers)
        return placed

    def first_noise(self, width: int, height: int, seed: int) -> Tensor:
        """Standard noise [1, c, h, w] from the request's own CPU generator, as diffusers draws it."""
        factor, there = self.base.vae_factor, self.placement
        shape = (1, self.loaded.unet.config.in_channels, height // factor, width // factor)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=there["dtype"])
        return noise.to(there["device"], torch.float32)

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
