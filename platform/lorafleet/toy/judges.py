"""A frozen network, the judge, that recognises what a toy picture shows, and how similar two subjects are.

Trained on renders before any adapter (`tools/toy/judge.py`). Their scores exist only in the toy world: they are neither
DINO nor CLIP, and never stand in a table beside figures for real pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from lorafleet.toy.render import SIDE
from lorafleet.toy.world import BACKGROUNDS, CLASSES, COLOURS

WEIGHTS = Path(__file__).parent / "weights" / "judge.safetensors"
ATTRIBUTES: dict[str, tuple[str, ...]] = {"class": CLASSES, "colour": COLOURS, "background": tuple(BACKGROUNDS)}
SEEN_SIDE = 32
"""Pixels of a side that the network looks at; a base may paint more."""


class Judge(nn.Module):
    """A small convolutional network with one head for each attribute and one embedding of identity."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 192)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for i, width in enumerate(widths):
            stride = 1 if i == 0 else 2
            layers += [nn.Conv2d(previous, width, 3, stride, 1), nn.GroupNorm(8, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.SiLU()]
            previous = width
        self.body = nn.Sequential(*layers)
        features = 2 * previous
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(words)) for name, words in ATTRIBUTES.items()})
        self.identity = nn.Sequential(nn.Linear(features, 192), nn.SiLU(), nn.Linear(192, 64))

    def features(self, x: Tensor) -> Tensor:
        """Mean and maximum over the picture, [n, 384]; `x` [n, 3, h, w] in [-1, 1], reduced by means over areas."""
        y = self.body(F.adaptive_avg_pool2d(x, SEEN_SIDE) if x.shape[-1] != SEEN_SIDE else x)
        return torch.cat([y.mean(dim=(2, 3)), y.amax(dim=(2, 3))], dim=1)

    def embed(self, x: Tensor) -> Tensor:
        """Identity embeddings of unit length, [n, 64]."""
        return F.normalize(self.identity(self.features(x)), dim=-1)

    @torch.no_grad()
    def read(self, x: Tensor) -> list[dict[str, str]]:
        """What each picture shows, in words."""
        features = self.features(x)
        indices = {name: head(features).argmax(dim=-1).tolist() for name, head in self.heads.items()}
        return [{name: ATTRIBUTES[name][indices[name][row]] for name in ATTRIBUTES} for row in range(len(x))]


@lru_cache(maxsize=1)
def load_judge() -> Judge:
    """The shipped judge."""
    judge = Judge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return judge.requires_grad_(False).eval()


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size at the toy world's, [n, 3, SIDE, SIDE] in [-1, 1]."""
    arrays = [np.asarray(i.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) for i in images]
    return torch.from_numpy(np.stack(arrays) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def recognise(judge: Judge, queries: Tensor, galleries: Sequence[Tensor]) -> list[int]:
    """For each query picture the index of the gallery (pictures of one subject) that it resembles most.

    The score of a gallery is the mean cosine to its pictures, as in Finer-Personalization Rank (2512.19026).
    """
    q = judge.embed(queries)
    scores = torch.stack([(q @ judge.embed(gallery).T).mean(dim=1) for gallery in galleries], dim=1)
    return [int(i) for i in scores.argmax(dim=1)]
