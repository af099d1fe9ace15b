"""DINO and CLIP from folders that transformers saved: pictures and prompts to embeddings of unit length.

Knows transformers' classes and how their pictures are prepared. Refuses to download and to know what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, CLIPModel, CLIPTokenizer

from lorafleet.errors import BaseModelError, first_line

BATCH = 16
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Preparation:
    """How pictures in [0, 1] become what an encoder takes: its side in pixels, channel mean and deviation."""

    side: int
    statistics: Statistics

    def __call__(self, pictures: Tensor) -> Tensor:
        """[n, 3, side, side]; square pictures are resized as a whole."""
        resized = F.interpolate(pictures, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1).to(pictures) for values in self.statistics)
        return (resized - mean) / std


@dataclass(frozen=True, eq=False)
class Dino:
    """A DINO vision transformer; its embedding is the class token's last state."""

    model: Any
    prepare: Preparation
    device: str

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Dino:
        """Reads `facebook/dino-vits16` or another ViT from a folder."""
        model = _load(AutoModel, folder, "--dino", "facebook/dino-vits16")
        return cls(model.to(device), Preparation(model.config.image_size, _statistics(folder, IMAGENET)), device)

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """[n, d] on the CPU."""
        parts = [
            self.model(self.prepare(part.to(self.device))).last_hidden_state[:, 0] for part in pictures.split(BATCH)
        ]
        return F.normalize(torch.cat(parts).float(), dim=-1).cpu()


@dataclass(frozen=True, eq=False)
class Clip:
    """CLIP's two encoders with their projections."""

    model: Any
    tokenizer: Any
    prepare: Preparation
    device: str

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Clip:
        """Reads `openai/clip-vit-base-patch32` or another CLIP from a folder."""
        model = _load(CLIPModel, folder, "--clip", "openai/clip-vit-base-patch32")
        tokenizer = _load_from(CLIPTokenizer, folder, "--clip", "openai/clip-vit-base-patch32")
        prepare = Preparation(model.config.vision_config.image_size, _statistics(folder, OPENAI))
        return cls(model.to(device), tokenizer, prepare, device)

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """[n, d] of pictures in [0, 1], on the CPU."""
        parts = []
        for part in pictures.split(BATCH):
            pooled = self.model.vision_model(self.prepare(part.to(self.device))).pooler_output
            parts.append(self.model.visual_projection(pooled))
        return F.normalize(torch.cat(parts).float(), dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[n, d] of prompts, on the CPU."""
        ids = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        pooled = self.model.text_model(ids.input_ids, attention_mask=ids.attention_mask).pooler_output
        return F.normalize(self.model.text_projection(pooled).float(), dim=-1).cpu()


def _load(kind: Any, folder: Path, option: str, example: str) -> Any:
    return _load_from(kind, folder, option, example, use_safetensors=True).requires_grad_(False).eval()


def _load_from(kind: Any, folder: Path, option: str, example: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError) as problem:
        line = first_line(problem, 200)
        raise BaseModelError(
            f"{option} {folder}: not a folder of {example} with safetensors ({line}); save it with transformers' "
            "save_pretrained"
        ) from None


def _statistics(folder: Path, default: Statistics) -> Statistics:
    """The channel statistics of the folder's preprocessor_config.json, or the encoder family's own."""
    where = folder / "preprocessor_config.json"
    if not where.is_file():
        return default
    config = json.loads(where.read_text())
    return tuple(config.get("image_mean", default[0])), tuple(config.get("image_std", default[1]))
