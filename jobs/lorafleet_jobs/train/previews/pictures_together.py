"""Validation pictures of the jobs on one base, made together: several in one call of the UNet, each with its adapter.

A picture is what it would be alone, to rounding: rows of a batch do not see each other, and each has its own seed.
Knows prompts and factors as they are now; refuses to know steps and schedules (`validate`, `job_run`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from cachetools import LRUCache
from PIL import Image
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.text import Conditioning
from lorafleet.pictures import sample_latents, to_image
from lorafleet.targets import UNET
from lorafleet.util.to_device import to_device
from lorafleet_jobs.train.base_step import BasePrediction
from lorafleet_jobs.train.batching import DynamicBatching, Shape
from lorafleet_jobs.train.prompts import JobPrompts
from lorafleet_jobs.train.trainable_state import LowRank, PackedFactors

SHOWN_AT_LEAST = 128
"""Pixels of a side: pictures of toy bases are enlarged to it, so that a reviewer can see them."""
KEPT = 64
"""Pictures of the base that are kept, those used last; one takes 3 MiB at 1024 pixels."""


@dataclass(frozen=True)
class WantedPicture:
    """One picture that a job wants, with its adapter and tokens as they are when it is made."""

    prompts: JobPrompts
    text: str
    weight: float
    """Of the job's LoRA; at 0 the picture has none."""
    seed: int
    steps: int | None
    """None for the base's own number."""
    side: int
    """Pixels."""

    @property
    def low_rank(self) -> LowRank | None:
        """The factors that the UNet carries; None for the base's own UNet."""
        return self.prompts.trainable.low_rank.get(UNET) if self.weight else None

    @property
    def scale(self) -> float:
        """Of the factors."""
        return self.prompts.trainable.scale * self.weight

    @property
    def is_of_base(self) -> bool:
        """Whether nothing that the job learns is in the picture, so that it is every job's."""
        return not self.weight and not self.prompts.has_learned_tokens(self.text)

    @property
    def key(self) -> Hashable:
        """What it depends on: equal keys are the same picture."""
        drawn = (self.seed, self.steps, self.side)
        if self.is_of_base:
            return tuple(tuple(each.flatten().tolist()) for each in self.prompts.ids(self.text)), *drawn
        return id(self.prompts), self.text, self.weight, *drawn


@dataclass(frozen=True)
class Encoded:
    """A picture and its prompt, encoded."""

    wanted: WantedPicture
    positive: Conditioning
    negative: Conditioning

    @classmethod
    def of(cls, wanted: WantedPicture) -> Encoded:
        """Encodes the prompt by itself, so that no other's length is its own."""
        return cls(wanted, *wanted.prompts.encode([wanted.text, ""], wanted.weight).rows())

    @property
    def shape(self) -> Shape:
        """What pictures of one call have in common."""
        wanted = self.wanted
        return "picture", wanted.side, wanted.steps, self.positive.context.shape[1], wanted.low_rank is not None


@dataclass
class PictureMaker:
    """Makes the pictures of all jobs on one base; those of the base alone once."""

    loaded: LoadedBase
    batching: DynamicBatching = field(default_factory=DynamicBatching)
    """How the jobs are trained; no call for pictures has more rows than their largest."""
    _of_base: LRUCache[Hashable, Image.Image] = field(default_factory=lambda: LRUCache(KEPT))

    @torch.no_grad()
    def make(self, wanted: Sequence[WantedPicture]) -> list[Image.Image]:
        """The pictures, in their order. Raises torch.OutOfMemoryError if not even one alone fits."""
        by_key = {each.key: each for each in wanted}
        made: dict[Hashable, Image.Image] = {key: self._of_base[key] for key in by_key if key in self._of_base}
        for picture, z in self.latents([each for key, each in by_key.items() if key not in made]):
            made[picture.key] = image = _shown(to_image(self.loaded.decode(z[None])[0]))
            if picture.is_of_base:
                self._of_base[picture.key] = image
        return [made[each.key] for each in wanted]

    def latents(self, wanted: Sequence[WantedPicture]) -> Iterator[tuple[WantedPicture, Tensor]]:
        """Each picture and its clean latents [c, h, w]."""
        groups: dict[Shape, list[Encoded]] = {}
        for picture in map(Encoded.of, wanted):
            groups.setdefault(picture.shape, []).append(picture)
        batching = self.batching.without_gradients
        for shape, group in groups.items():
            most = self._most(shape, batching)
            for i in range(0, len(group), most):
                for called, latents in batching.run(shape, group[i : i + most], self._sample):
                    yield from ((picture.wanted, z) for picture, z in zip(called, latents, strict=True))

    def _most(self, shape: Shape, batching: DynamicBatching) -> int:
        """How many pictures, of two rows each, have no more rows together than a training call has had."""
        at_most = self.batching.most_rows // 2
        return next((n for n in range(at_most, 1, -1) if len(batching.slots(shape, range(n))) <= at_most), 1)

    def _sample(self, pictures: Sequence[Encoded], slots: Sequence[Encoded], batching: DynamicBatching) -> Tensor:
        """Clean latents [pictures, c, h, w] of pictures of one shape; those of the slots after them are left out."""
        wanted = [each.wanted for each in slots]
        low_rank = [each.low_rank for each in wanted]
        inputs, step = dict[str, Tensor](), BasePrediction()
        if layouts := [each.layout for each in low_rank if each is not None]:
            factors = PackedFactors.of(low_rank, [each.scale for each in wanted], batching.layout(layouts))
            step = BasePrediction(factors.layout)
            inputs = {"flat": factors.flat} | ({} if factors.dora is None else {"dora": factors.dora})

        def predict(x: Tensor, t: Tensor, text: Conditioning, time_ids: Tensor) -> Tensor:
            send = partial(to_device, device=self.loaded.device)
            rows = {"x": x, "t": send(t), "time_ids": send(time_ids), "context": text.context, "pooled": text.pooled}
            return step.ask(batching.calls, self.loaded, rows | inputs)

        latents = sample_latents(
            self.loaded,
            Conditioning.cat([each.positive for each in slots]),
            Conditioning.cat([each.negative for each in slots]),
            [each.seed for each in wanted],
            side=wanted[0].side,
            steps=wanted[0].steps,
            predict=predict,
        )
        return latents[: len(pictures)]


def _shown(image: Image.Image) -> Image.Image:
    factor = -(-SHOWN_AT_LEAST // image.width)
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST) if factor > 1 else image
