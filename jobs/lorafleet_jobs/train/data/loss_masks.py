"""Masks of a batch's rows at latent size. Knows pictures and views; refuses to know how a loss is made of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorafleet_jobs.train.data.geometry import View, latent_mask
from lorafleet_jobs.train.data.sources import Source

KEPT = 4096
"""Masks kept in memory; at 1024 pixels one takes 64 KiB."""


@dataclass
class Masks:
    """The masks of one job's images, at latent size."""

    floor: float
    """What black counts."""
    factor: int
    """Pixels of a side for each latent pixel."""
    _kept: OrderedDict[tuple[str, View], Tensor] = field(default_factory=OrderedDict)

    def of(self, shown: Sequence[tuple[Source, View]]) -> tuple[Tensor, list[float]]:
        """Masks [n, 1, h, w] in [floor, 1], and how much each row counts; ones and 1 without a mask.

        What is black all over counts `floor` as a whole: a mean over a mask is relative, so the mask cannot say it.
        Without this a row whose crop shows nothing of the subject would train as if all of it mattered, or be 0 / 0.
        Raises DataError if a mask is gone, damaged or changed.
        """
        masks, counts = [], []
        for source, view in shown:
            grey = self._grey(source, view)
            seen = bool(grey.any())
            masks.append(self.floor + (1 - self.floor) * grey if seen else torch.ones_like(grey))
            counts.append(1.0 if seen else self.floor)
        return torch.cat(masks), counts

    def _grey(self, source: Source, view: View) -> Tensor:
        if source.mask is None:
            return torch.ones(1, 1, view.window.height // self.factor, view.window.width // self.factor)
        key = (source.mask.sha256, view)
        if key not in self._kept:
            self._kept[key] = latent_mask(source.mask.picture().convert("L"), view, self.factor)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]
