"""A base in memory, the same for training and serving: frozen parts, row LoRA around them, one prompt encoder.

Knows diffusers' and transformers' classes. Refuses to know jobs and requests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lorafleet.bases import Base
from lorafleet.numerics.factors import Stacked
from lorafleet.numerics.latents import LatentScale
from lorafleet.numerics.rowlora import RowDropout, RowLoRA
from lorafleet.numerics.text import Conditioning, PromptEncoder
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2, TEXT_SERVED, UNET, is_target

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class LoadedBase:
    """The parts of one base on one device.

    The UNet and the text encoders have the dtype of `precision`; the VAE is fp32 always. `lora` wraps the linear layers
    and convolutions of the UNet and the transformer layers of the text encoders, by `lorafleet.targets.PARTS`; nothing
    else can change.
    """

    base: Base
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    prompts: PromptEncoder
    lora: dict[str, RowLoRA]
    device: torch.device

    @classmethod
    def load(cls, base: Base, device: str = "cpu", precision: str = "fp32") -> LoadedBase:
        """Reads the parts from the base's folder: the safetensors files that its fingerprint is made of."""
        dtype = DTYPES[precision]

        def part(kind: Any, name: str, dtype: torch.dtype) -> Any:
            variant = base.files(name).variant
            return kind.from_pretrained(base.path, subfolder=name, variant=variant, dtype=dtype, use_safetensors=True)

        tokenizers = tuple(CLIPTokenizer.from_pretrained(base.path / name) for name in ("tokenizer", "tokenizer_2"))
        return cls.of_parts(
            base,
            unet=part(UNet2DConditionModel, "unet", dtype),
            vae=part(AutoencoderKL, "vae", torch.float32),
            encoders=(
                part(CLIPTextModel, "text_encoder", dtype),
                part(CLIPTextModelWithProjection, "text_encoder_2", dtype),
            ),
            tokenizers=(tokenizers[0], tokenizers[1]),
            device=device,
        )

    @classmethod
    def of_parts(
        cls,
        base: Base,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        encoders: tuple[nn.Module, nn.Module],
        tokenizers: tuple[Any, Any],
        device: str = "cpu",
    ) -> LoadedBase:
        """Freezes the parts, moves them to the device and wraps the UNet, in place."""
        for module in (unet, vae, *encoders):
            module.requires_grad_(False).eval().to(device)
        lora = {
            UNET: RowLoRA(unet, lambda _: True),
            TEXT_ENCODER: RowLoRA(encoders[0], lambda name: is_target(name, TEXT_SERVED)),
            TEXT_ENCODER_2: RowLoRA(encoders[1], lambda name: is_target(name, TEXT_SERVED)),
        }
        return cls(base, unet, vae, PromptEncoder(tokenizers, encoders), lora, torch.device(device))

    @contextmanager
    def carrying(
        self, parts: Sequence[str], adapters: Mapping[str, Mapping[str, Stacked]], dropout: RowDropout | None = None
    ) -> Iterator[None]:
        """Installs adapters on `parts` while the block runs, by part; a part that has none in `adapters` carries none.

        Afterwards the parts carry nothing, whatever was raised: no adapter outlives the calls that it is meant for.
        """
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(self.lora[part].carrying(adapters.get(part), dropout))
            yield

    @contextmanager
    def checkpointing(self, wanted: bool) -> Iterator[None]:
        """If wanted, checkpoints the UNet's gradients while the block runs: it recomputes activations and keeps few.

        No generator's state is kept for the recomputation: nothing in a frozen base draws, and row LoRA's dropout draws
        the same again.
        """
        if wanted:
            self.unet.enable_gradient_checkpointing(
                partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # reading it cannot be recorded
            )
        try:
            yield
        finally:
            if wanted:
                self.unet.disable_gradient_checkpointing()

    def clear(self) -> None:
        """Takes every adapter off."""
        for lora in self.lora.values():
            lora.set(None)

    @cached_property
    def scale(self) -> LatentScale:
        """Between VAE and model latents."""
        return LatentScale.of(self.vae)

    @cached_property
    def zero_negative(self) -> bool:
        """Whether an absent negative prompt is zeros (SDXL) rather than an encoded empty text."""
        index = json.loads((self.base.path / "model_index.json").read_text())
        return bool(index.get("force_zeros_for_empty_prompt", True))

    def unconditional(self, count: int) -> Conditioning:
        """Conditioning of `count` rows without a prompt: zeros, or the encoded empty text, as the base was trained.

        Where the base encodes the empty text, LoRA that the text encoders carry changes it.
        """
        ids = self.prompts.token_ids([""])
        empty = self.prompts.encode(ids)
        if self.zero_negative:
            empty = Conditioning(torch.zeros_like(empty.context), torch.zeros_like(empty.pooled))
        return Conditioning(empty.context.repeat(count, 1, 1), empty.pooled.repeat(count, 1))

    def predict(
        self,
        x: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        time_ids: Tensor,
        unet: Callable[..., Any] | None = None,
    ) -> Tensor:
        """The UNet's output for `x` [n, c, h, w], `t` [n], and conditioning and `time_ids` [n, 6] of n rows.

        The output is fp32, or fp64 if the UNet is. `unet` is called instead of the base's own: the same, compiled.
        """
        dtype = self.unet.dtype
        ids = time_ids.to(self.device, torch.float32)  # bf16 knows 340 and 342, not 341; their embedding is fp32 anyway
        extra = {"text_embeds": conditioning.pooled.to(dtype), "time_ids": ids}
        output = (self.unet if unet is None else unet)(
            x.to(dtype), t.to(self.device), conditioning.context.to(dtype), added_cond_kwargs=extra, return_dict=False
        )
        prediction: Tensor = output[0]
        return prediction.to(torch.promote_types(prediction.dtype, torch.float32))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std [1, c, h, w], fp32, of the VAE's latents of one image [1, 3, h, w] in [0, 1]."""
        posterior = self.vae.encode(2 * pixels.to(self.device, torch.float32) - 1).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Pixels [n, 3, h, w] in [0, 1] from model latents; one image at a time, so that neighbours cannot matter."""
        latents = self.scale.to_vae(z.float())
        images = torch.cat([self.vae.decode(row[None], return_dict=False)[0] for row in latents])
        return (images / 2 + 0.5).clamp(0, 1)
