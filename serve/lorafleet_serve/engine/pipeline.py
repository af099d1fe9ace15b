"""A base in memory and what an engine asks of it: conditioning, noise, decoding, and the layout of adapters' columns.

Wraps `lorafleet.loaded.LoadedBase` with what only serving needs: a cache, images, checks. Refuses to know queues and
which rows step when. Three threads may use it at once, each its own modules: `condition`, `pair` and `encode` the text
encoders and the VAE's encoder, `decode` the VAE's decoder, and the stepping thread the UNet.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypedDict, TypeVar

import torch
from cachetools import LRUCache
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
from lorafleet_serve.adapters.layout import ColumnLayout
from lorafleet_serve.engine.init_image import InitImage
from lorafleet_serve.engine.prompts import join_vectors
from lorafleet_serve.engine.rows import RowNoise

log = logging.getLogger(__name__)
PROMPT_CACHE = 64
"""How many encoded prompts are kept."""
POSTERIOR_CACHE = 8
"""How many encoded init images are kept."""
Result = TypeVar("Result")
ScaledAdapter = tuple[Adapter, float]
"""An adapter of a request and its scale."""
TextIdentity = tuple[str, str, float]
"""What a prompt's encoding depends on in an adapter: its learned tokens, its text encoder LoRA and that one's scale."""
PromptKey = tuple[tuple[Weighted, ...], tuple[TextIdentity, ...], int]
"""A prompt, the adapters it is encoded with, and how many layers are skipped."""


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
        self.columns = ColumnLayout.of(loaded.lora[UNET].shapes())
        self._prompts: LRUCache[PromptKey, Conditioning] = LRUCache(PROMPT_CACHE)
        self._posteriors: LRUCache[tuple[tuple[int, int], bytes], tuple[Tensor, Tensor]] = LRUCache(POSTERIOR_CACHE)
        self.prompt_hits = self.prompt_misses = 0
        """Prompts that were in the cache, and prompts that had to be encoded."""

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
        self, prompt: Sequence[Weighted], adapters: Sequence[ScaledAdapter] = (), clip_skip: int | None = None
    ) -> Conditioning:
        """Encodes one prompt alone, so that the result does not depend on a batch; context [1, length k, w].

        `adapters` are the request's: the pieces name their learned tokens, and their text encoder LoRA is applied.
        Equal prompts and adapters give the cached result. RequestError if the prompt is too long.
        """
        key = (tuple(prompt), tuple(_identity(adapter, scale) for adapter, scale in adapters), clip_skip or 0)
        conditioning = self._prompts.get(key)
        if conditioning is not None:
            self.prompt_hits += 1
            return conditioning
        self.prompt_misses += 1
        conditioning = self._prompts[key] = self._encode(prompt, adapters, clip_skip)
        return conditioning

    def forget_prompts(self) -> None:
        """Empties the cache of encoded prompts, which hold what learned tokens and text encoder LoRAs made of them."""
        self._prompts = LRUCache(PROMPT_CACHE)  # in one step: the encoder's thread may be at it

    def pair(
        self,
        prompt: Sequence[Weighted],
        negative: Sequence[Weighted] | None,
        adapters: Sequence[ScaledAdapter] = (),
        clip_skip: int | None = None,
    ) -> tuple[Conditioning, Conditioning]:
        """Positive and negative conditioning for guidance, of one length.

        A missing negative prompt is zeros where the base says so, else the empty prompt. Layers are skipped for the
        positive prompt alone, as in diffusers.
        """
        positive = self.condition(prompt, adapters, clip_skip)
        if negative is None and self.loaded.zero_negative:
            return positive, Conditioning(torch.zeros_like(positive.context), torch.zeros_like(positive.pooled))
        other = self.condition(negative or (), adapters)
        length = max(positive.context.shape[1], other.context.shape[1])
        return (
            lengthened(positive, length, lambda: self.condition((), adapters, clip_skip)),
            lengthened(other, length, lambda: self.condition((), adapters)),
        )

    def _encode(
        self, prompt: Sequence[Weighted], adapters: Sequence[ScaledAdapter], clip_skip: int | None
    ) -> Conditioning:
        device = self.loaded.device
        vectors = join_vectors([adapter for adapter, _ in adapters])
        on_device = None if vectors is None else (vectors[0].to(device), vectors[1].to(device))
        for part in (TEXT_ENCODER, TEXT_ENCODER_2):
            group = [
                ({name: factors.to(device=device) for name, factors in adapter.layers(part).items()}, scale)
                for adapter, scale in adapters
            ]
            self.loaded.lora[part].carry([group])
        try:
            return encode_prompt(self.loaded.prompts, prompt, on_device, clip_skip)
        finally:
            for part in (TEXT_ENCODER, TEXT_ENCODER_2):
                self.loaded.lora[part].set(None)

    def noise(self, width: int, height: int, seed: int) -> RowNoise:
        """The noise of one image, whose width and height are in pixels."""
        factor = self.base.vae_factor
        shape = (int(self.loaded.unet.config.in_channels), height // factor, width // factor)
        return RowNoise(seed, shape, **self.placement)

    @torch.inference_mode()
    def encode(self, init: InitImage, noise: Tensor) -> Tensor:
        """The latent [1, c, h, w], fp32, of an init image: the VAE's posterior, sampled with standard noise like it.

        The posterior is cached, so that the images of one request share it.
        """
        key = (init.size, init.rgb)
        if key not in self._posteriors:
            width, height = init.size
            levels = torch.frombuffer(bytearray(init.rgb), dtype=torch.uint8).view(1, height, width, 3)
            pixels = levels.permute(0, 3, 1, 2).to(self.loaded.device) / 255
            self._posteriors[key] = self._twice_if_short(lambda: self.loaded.encode(pixels), "encoded")
        mean, std = self._posteriors[key]
        return self.loaded.scale.to_model(mean + std * noise)

    def decode(self, x: Tensor) -> Image.Image:
        """The image of one latent [1, c, h, w], rounded as diffusers' VaeImageProcessor does; NonFiniteError."""
        pixels = self._twice_if_short(lambda: self.loaded.decode(x)[0], "decoded")
        if not torch.isfinite(pixels).all():
            raise NonFiniteError("the decoded image is not finite; lower the adapter scales or the guidance scale")
        levels = (pixels * 255).round().to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())

    def _twice_if_short(self, call: Callable[[], Result], done: str) -> Result:
        """What a call of the VAE gives. Where memory is short, it is called again without what the allocator keeps.

        What filled the device may be a neighbour's step.
        """
        try:
            return call()
        except torch.OutOfMemoryError as problem:
            log.warning("an image is %s again: %s", done, first_line(problem))
        gc.collect()  # outside the handler, whose traceback keeps the failed call's tensors
        if self.loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        return call()


def _identity(adapter: Adapter, scale: float) -> TextIdentity:
    text = (adapter.weights_sha256, scale) if adapter.touches_text else ("", 0.0)
    return (adapter.vectors_sha256, *text)
