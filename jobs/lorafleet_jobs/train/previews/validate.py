"""Which validation pictures a job has: fixed prompts, fixed seeds, the base beside the adapter, so that all compare.

Knows a job's prompts and steps; refuses to know how pictures are made (`pictures_together`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from lorafleet import subject_words
from lorafleet.bundle.ports import Caption, JobTracker, Shown
from lorafleet.subject_words import ABSTRACTION, filled
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.previews.pictures_together import WantedPicture
from lorafleet_jobs.train.prompts import JobPrompts

BETWEEN = 4
"""Pixels between the pictures of a sheet."""
NAME_AT_MOST = 48
"""Characters of a prompt in the name of its pictures."""


class Validator:
    """A job's validation pictures, one for each of its prompts in every set."""

    def __init__(self, spec: JobSpec, prompts: JobPrompts) -> None:
        self.spec, self.prompts = spec, prompts
        self.texts, self.names = validation_texts(spec), picture_names(spec)

    def is_due(self, step: int) -> bool:
        """Whether pictures are made after this step."""
        every = self.spec.validation.every
        return step == self.spec.steps or (every is not None and step % every == 0)

    def adapted(self) -> list[WantedPicture]:
        """With the adapter as it is when they are made."""
        return self._wanted(self.texts, 1.0)

    def words_only(self) -> list[WantedPicture]:
        """With the learned tokens alone; where no token is learned, the base's."""
        return self._wanted(self.texts, 0.0)

    def untrained(self, prompts: JobPrompts) -> list[WantedPicture]:
        """With the words as `prompts` kept them from before the first step; where none is learned, `words_only`."""
        return [replace(each, prompts=prompts) for each in self.words_only()]

    def of_base(self) -> list[WantedPicture]:
        """The base's, with the subject left out of the prompts."""
        return self._wanted([without_subject(self.spec, text) for text in self.texts], 0.0)

    def log_base(self, tracker: JobTracker, pictures: Sequence[Image.Image]) -> None:
        """Logs the base's pictures, as step 0."""
        self._tell(tracker, 0, "base", pictures)
        if self._has_steps:  # where MLflow's slider begins
            self._tell(tracker, 0, "by step", pictures)

    def log_words(self, tracker: JobTracker, pictures: Sequence[Image.Image]) -> None:
        """Logs the pictures with the learned words alone after the last step, where there are any words."""
        if self.prompts.trainable.vectors is not None:
            self._tell(tracker, self.spec.steps, "words only", pictures)

    def log_adapted(self, tracker: JobTracker, step: int, pictures: Sequence[Image.Image]) -> None:
        """Logs the pictures with the adapter as it is after a step."""
        if self._has_steps:
            self._tell(tracker, step, "by step", pictures)
        if step == self.spec.steps:
            self._tell(tracker, step, "adapter", pictures)

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

    def _wanted(self, texts: Sequence[str], weight: float) -> list[WantedPicture]:
        validation, side = self.spec.validation, self.spec.recipe.resolution or self.prompts.base.base.resolution
        wanted = partial(WantedPicture, self.prompts, seed=validation.seed, steps=validation.steps, side=side)
        return [wanted(text=text, weight=weight) for text in texts]


def sheet(columns: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """The preview of a bundle: sets of pictures side by side, one row a prompt; all of one size."""
    width, height = columns[0][0].size
    size = (len(columns) * (width + BETWEEN) - BETWEEN, len(columns[0]) * (height + BETWEEN) - BETWEEN)
    made = Image.new("RGB", size, "white")
    for x, pictures in enumerate(columns):
        for y, picture in enumerate(pictures):
            made.paste(picture, (x * (width + BETWEEN), y * (height + BETWEEN)))
    return made


def mean_difference(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """Mean absolute difference of the pixels of two sets of pictures of the same sizes, in levels of 255."""
    pairs = [
        [np.asarray(each.convert("RGB"), dtype=np.float64) for each in pair]
        for pair in zip(pictures, others, strict=True)
    ]
    return float(np.mean([np.abs(one - other).mean() for one, other in pairs]))


def validation_texts(spec: JobSpec) -> tuple[str, ...]:
    """The prompts of a job's validation pictures; `{class}` and `{name}` stand for the subject's own."""
    prompts = spec.validation.prompts or (spec.instance_prompt,)
    return tuple(filled(text, spec.adapter, spec.class_noun) for text in prompts)


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
    """A job's prompt as one would ask the base for any of the class."""
    return subject_words.without_subject(text, spec.adapter, spec.class_noun)
