"""Validation pictures: fixed prompts, fixed seeds, the base beside the adapter, so that jobs and steps compare."""

from __future__ import annotations

from typing import TypeAlias

import torch
from cachetools import LRUCache
from PIL import Image

from lorafleet import subject_words
from lorafleet.bundle.ports import JobTracker
from lorafleet.loaded import LoadedBase
from lorafleet.pictures import sample_pictures, to_image
from lorafleet.subject_words import filled
from lorafleet.targets import UNET
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.prompts import JobPrompts
from lorafleet_jobs.train.trainable_state import TrainableState

SHOWN_AT_LEAST = 128
"""Pixels of a side: pictures of toy bases are enlarged to it, so that a reviewer can see them."""


BasePictures: TypeAlias = LRUCache[tuple[object, ...], Image.Image]
"""Pictures of the base by all that they depend on: prompt, seed, steps, size. The jobs of a base share them."""


class Validator:
    """Makes a job's validation pictures from its own seed, independent of all other random numbers of the lane."""

    def __init__(
        self,
        spec: JobSpec,
        loaded: LoadedBase,
        prompts: JobPrompts,
        trainable: TrainableState,
        base_pictures: BasePictures | None = None,
    ) -> None:
        """`base_pictures` are those of all jobs on this base."""
        self.spec, self.loaded, self.prompts, self.trainable = spec, loaded, prompts, trainable
        self.texts = validation_texts(spec)
        self._base_pictures = new_base_pictures() if base_pictures is None else base_pictures
        self._last: list[Image.Image] | None = None  # pictures of the last step, which the preview shows again

    def is_due(self, step: int) -> bool:
        """Whether pictures are made after this step."""
        every = self.spec.validation.every
        return step == self.spec.steps or (every is not None and step % every == 0)

    def log_base(self, tracker: JobTracker) -> None:
        """Logs the base's pictures of the same prompts, the subject's token left out, as step 0."""
        for i, text in enumerate(self.texts):
            tracker.image(f"val/p{i:02d}", 0, self.base_picture(text))

    def log(self, tracker: JobTracker, step: int) -> list[Image.Image]:
        """Logs and returns one picture a prompt, made with the adapter as it is now."""
        pictures = [self.picture(text, 1.0) for text in self.texts]
        for i, picture in enumerate(pictures):
            tracker.image(f"val/p{i:02d}", step, picture)
        self._last = pictures if step == self.spec.steps else None
        return pictures

    def preview(self) -> Image.Image:
        """The preview of a bundle, one row a prompt: base | adapter at scale 0 | adapter."""
        adapted = self._last or [self.picture(text, 1.0) for text in self.texts]
        rows = [
            [self.base_picture(text), self.words_only(text), picture]
            for text, picture in zip(self.texts, adapted, strict=True)
        ]
        width, height = rows[0][0].size
        sheet = Image.new("RGB", (3 * width + 2 * 4, len(rows) * (height + 4) - 4), "white")
        for y, row in enumerate(rows):
            for x, picture in enumerate(row):
                sheet.paste(picture, (x * (width + 4), y * (height + 4)))
        return sheet

    def base_picture(self, text: str) -> Image.Image:
        """The base's picture of a prompt with the subject left out."""
        return self._of_base(without_subject(self.spec, text))

    def words_only(self, text: str) -> Image.Image:
        """The picture with the learned tokens alone; where no token is learned, the base's."""
        return self._of_base(text) if self.trainable.vectors is None else self.picture(text, 0.0)

    def _of_base(self, text: str) -> Image.Image:
        """The base's picture of a prompt that names no learned token: made once, since the base does not change."""
        ids = tuple(tuple(each.flatten().tolist()) for each in self.prompts.ids(text))
        validation = self.spec.validation
        key = (ids, validation.seed, validation.steps, self.spec.recipe.resolution)
        if key not in self._base_pictures:
            self._base_pictures[key] = self.picture(text, None)
        picture: Image.Image = self._base_pictures[key]
        return picture

    @torch.no_grad()
    def picture(self, text: str, weight: float | None) -> Image.Image:
        """One picture; `weight` None is the base without the adapter."""
        loaded, side = self.loaded, self.spec.recipe.resolution or self.loaded.base.resolution
        positive, empty = self.prompts.encode([text, ""], weight or 0.0).rows()
        validation = self.spec.validation
        with loaded.carrying((UNET,), self.trainable.adapters(loaded, (UNET,), weight or 0.0)):
            pixels = sample_pictures(loaded, positive, empty, [validation.seed], side=side, steps=validation.steps)
        image = to_image(pixels[0])
        factor = -(-SHOWN_AT_LEAST // side)
        return image.resize((side * factor, side * factor), Image.Resampling.NEAREST) if factor > 1 else image


def new_base_pictures() -> BasePictures:
    """None yet; at most 64 are kept, 3 MiB each at 1024 pixels."""
    return LRUCache(64)


def validation_texts(spec: JobSpec) -> tuple[str, ...]:
    """The prompts of a job's validation pictures; `{class}` and `{name}` stand for the subject's own."""
    prompts = spec.validation.prompts or (spec.instance_prompt,)
    return tuple(filled(text, spec.adapter, spec.class_noun) for text in prompts)


def without_subject(spec: JobSpec, text: str) -> str:
    """A job's prompt as one would ask the base for any of the class."""
    return subject_words.without_subject(text, spec.adapter, spec.class_noun)
