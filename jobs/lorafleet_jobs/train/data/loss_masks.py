"""Masks of a batch's rows at latent size. Knows pictures and views; refuses to know how a loss is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from cachetools import LRUCache
from torch import Tensor

from lorafleet_jobs.train.data.geometry import View, latent_mask
from lorafleet_jobs.train.data.sources import Source

CACHED = 4096
"""Masks in memory, the least recently used dropped first; at 1024 pixels one takes 64 KiB."""


@dataclass
class Masks:
    """The masks of one job's images, at latent size."""

    floor: float
    """The weight of black pixels."""
    factor: int
    """Pixels of a side for each latent pixel."""
    _memory: LRUCache[tuple[str, View], Tensor] = field(default_factory=lambda: LRUCache(CACHED))

    def of(self, shown: Sequence[tuple[Source, View]]) -> tuple[Tensor, list[float]]:
        """Masks [n, 1, h, w] in [floor, 1], and each row's weight; without a mask these are ones and 1.

        A row whose mask is black all over has the weight `floor`: the loss is a mean weighted by the mask, so a uniform
        mask cannot make a row count less. Without this a crop that shows nothing of the subject would train as if all
        of it mattered, or its loss would be 0 / 0. Raises DataError if a mask is gone, damaged or changed.
        """
        masks, weights = [], []
        for source, view in shown:
            grey = self._grey(source, view)
            any_subject = bool(grey.any())
            masks.append(self.floor + (1 - self.floor) * grey if any_subject else torch.ones_like(grey))
            weights.append(1.0 if any_subject else self.floor)
        return torch.cat(masks), weights

    def prepare(self, shown: Sequence[tuple[Source, View]]) -> None:
        """Reads the masks of these views, before they are asked for. Raises DataError."""
        for source, view in shown:
            self._grey(source, view)

    def _grey(self, source: Source, view: View) -> Tensor:
        if source.mask is None:
            return torch.ones(1, 1, view.window.height // self.factor, view.window.width // self.factor)
        key = (source.mask.sha256, view)
        grey: Tensor | None = self._memory.get(key)
        if grey is None:
            grey = self._memory[key] = latent_mask(source.mask.picture().convert("L"), view, self.factor)
        return grey
