"""Which validation pictures a job has: fixed prompts, fixed seeds, the base beside the adapter, so that all compare.

Knows a job's prompts and steps; refuses to know how pictures are made (`pictures_together`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from PIL import Image

from lorafleet.bundle.ports import JobTracker
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.previews.pictures_together import WantedPicture
from lorafleet_jobs.train.prompts import ABSTRACTION, JobPrompts

BETWEEN = 4
"""Pixels between the pictures of a sheet."""


class Validator:
    """A job's validation pictures, one for each of its prompts in every set."""

    def __init__(self, spec: JobSpec, prompts: JobPrompts) -> None:
        self.spec, self.prompts = spec, prompts
        self.texts = validation_texts(spec)

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

    def of_base(self) -> list[WantedPicture]:
        """The base's, with the subject left out of the prompts."""
        return self._wanted([without_subject(self.spec, text) for text in self.texts], 0.0)

    def log(self, tracker: JobTracker, step: int, pictures: Sequence[Image.Image]) -> None:
        """Logs one set of pictures."""
        for i, picture in enumerate(pictures):
            tracker.image(f"val/p{i:02d}", step, picture)

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


def validation_texts(spec: JobSpec) -> tuple[str, ...]:
    """The prompts of a job's validation pictures; `{class}` and `{name}` stand for the subject's own."""
    prompts = spec.validation.prompts or (spec.instance_prompt,)
    return tuple(text.replace("{class}", spec.class_noun).replace("{name}", spec.adapter) for text in prompts)


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
