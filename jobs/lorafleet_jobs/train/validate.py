"""Validation pictures: fixed prompts, fixed seeds, the base beside the adapter, so that jobs and steps compare."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TypeAlias

import torch
from cachetools import LRUCache
from PIL import Image

from lorafleet.bundle.ports import Caption, JobTracker, Shown
from lorafleet.loaded import LoadedBase
from lorafleet.pictures import sample_pictures, to_image
from lorafleet.targets import UNET
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.prompts import ABSTRACTION, JobPrompts
from lorafleet_jobs.train.trainable_state import TrainableState

SHOWN_AT_LEAST = 128
"""Pixels of a side: pictures of toy bases are enlarged to it, so that a reviewer can see them."""
NAME_AT_MOST = 48
"""Characters of a prompt in the name of its pictures."""


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
        self.names = picture_names(spec)
        # pictures of the last step, which the preview shows again: with the adapter, and with its words alone
        self._last: tuple[list[Image.Image], list[Image.Image]] | None = None

    def is_due(self, step: int) -> bool:
        """Whether pictures are made after this step."""
        every = self.spec.validation.every
        return step == self.spec.steps or (every is not None and step % every == 0)

    def log_base(self, tracker: JobTracker) -> None:
        """Logs the base's pictures of the same prompts, the subject's token left out, as step 0."""
        pictures = [self.base_picture(text) for text in self.texts]
        self._tell(tracker, 0, "base", pictures)
        if self._has_steps:  # where MLflow's slider begins
            self._tell(tracker, 0, "by step", pictures)

    def log(self, tracker: JobTracker, step: int) -> list[Image.Image]:
        """Logs and returns one picture a prompt, made with the adapter as it is now.

        At the last step also one with the learned words alone, where there are any.
        """
        pictures = [self.picture(text, 1.0) for text in self.texts]
        if self._has_steps:
            self._tell(tracker, step, "by step", pictures)
        if step == self.spec.steps:
            words = [self.words_only(text) for text in self.texts]
            if self.trainable.vectors is not None:
                self._tell(tracker, step, "words only", words)
            self._tell(tracker, step, "adapter", pictures)
            self._last = pictures, words
        return pictures

    @property
    def _has_steps(self) -> bool:
        """Whether there are pictures from before the last step."""
        every, early = self.spec.validation.every, self.spec.early_stop
        return (early is not None and early.metric != "loss") or (every is not None and every < self.spec.steps)

    def _tell(self, tracker: JobTracker, step: int, shows: Shown, pictures: Sequence[Image.Image]) -> None:
        said_already = shows == "by step" and step in (0, self.spec.steps)  # as `base` and as `adapter`
        for name, text, picture in zip(self.names, self.texts, pictures, strict=True):
            prompt = without_subject(self.spec, text) if shows == "base" else text
            caption = None if said_already else Caption(name, prompt, shows, self.spec.validation.seed)
            tracker.image(f"{name}/{shows}", step, picture, caption)

    def preview(self) -> Image.Image:
        """The preview of a bundle, one row a prompt: base | words only | adapter."""
        if self._last is None:
            self._last = [self.picture(t, 1.0) for t in self.texts], [self.words_only(t) for t in self.texts]
        rows = [
            [self.base_picture(text), words, picture]
            for text, picture, words in zip(self.texts, *self._last, strict=True)
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
    return tuple(text.replace("{class}", spec.class_noun).replace("{name}", spec.adapter) for text in prompts)


def picture_names(spec: JobSpec) -> tuple[str, ...]:
    """For each validation prompt a name for its pictures, in letters that MLflow takes: "1 TOK on the beach".

    The subject's class and name are left out, so that the pictures of all subjects of a manifest have one name, and
    what most prompts begin with, for MLflow's tiles show some 25 letters. It sorts by names, hence the number: pictures
    come in the manifest's order, and before the curves.
    """
    names: list[str] = []
    prompts = spec.validation.prompts or (spec.instance_prompt,)
    digits = len(str(len(prompts)))
    for number, text in enumerate(prompts, start=1):
        text = re.sub(r"\{class\}", " ", text.replace("{name}", ABSTRACTION).replace(f"<{spec.adapter}>", ABSTRACTION))
        text = re.sub(rf"\b({ABSTRACTION}[0-9]*)\s+{re.escape(spec.class_noun)}\b", r"\1", text)
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        plain = " ".join(re.sub(r"[^A-Za-z0-9_.-]+", " ", plain).split())
        plain = re.sub(r"^(a |an |the )?(photo|picture|image) of (?=.)", "", plain)
        if len(plain) > NAME_AT_MOST:
            plain = plain[: NAME_AT_MOST + 1].rpartition(" ")[0] or plain[:NAME_AT_MOST]
        names.append(f"{number:0{digits}} {plain.strip(' .-') or 'prompt'}")
    return tuple(names)


def without_subject(spec: JobSpec, text: str) -> str:
    """A job's prompt as one would ask the base for any of the class.

    "a photo of TOK dog" and "a photo of TOK" become "a photo of a dog", "my TOK on the beach" "my dog on the beach".
    """
    noun = re.escape(spec.class_noun)
    subject = rf"(?:<{re.escape(spec.adapter)}(?:/TOK[0-9]*)?>|\b{ABSTRACTION}[0-9]*\b)"
    article = "an" if spec.class_noun[:1].lower() in "aeiou" else "a"
    text = re.sub(rf"{subject}\s+(?={noun}\b)", "", text)  # the noun stands there
    text = re.sub(rf"\b(a|an|the|my|your|his|her|our|their|this|that)\s+{subject}", rf"\1 {spec.class_noun}", text)
    text = re.sub(subject, f"{article} {spec.class_noun}", text)
    return re.sub(rf"\bof\s+(?={noun}\b)", f"of {article} ", re.sub(r"\s+", " ", text).strip())
