"""The field's scores for photographs, with encoders from local folders: nothing is ever downloaded.

    DINO, CLIP-I    mean cosine of samples to the subject's real pictures (DreamBooth, 2208.12242, section 4.1)
    CLIP-T          mean cosine of samples to their prompts, the subject's word left out
    DINO-top-1, DINO-mAP   as the toy suite's, among the subjects evaluated together; none for a single subject
    PRES            mean DINO cosine of "a photo of a <class>" with the adapter on to the real pictures; lower is better
    DIV             mean LPIPS between samples of one prompt; none without --lpips
    MEM             mean DINO cosine to the nearest training picture, less that of training pictures to each other

Real pictures are the training pictures: no others are known of a submission.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorafleet.errors import BaseModelError
from lorafleet_jobs.evaluate import measures
from lorafleet_jobs.evaluate.encoders import Clip, Dino
from lorafleet_jobs.evaluate.lpips import Lpips
from lorafleet_jobs.evaluate.pictures import ArmSamples, Prompt, SubjectPictures
from lorafleet_jobs.evaluate.suite import LEAVE_ONE_OUT, Scores, score

PLACES = (
    "in the jungle", "in the snow", "on the beach", "on a cobblestone street", "on top of pink fabric",
    "on top of a wooden floor", "with a city in the background", "with a mountain in the background",
    "on top of a purple rug in a forest", "floating on top of water",
)  # fmt: skip
"""Recontextualisation prompts of DreamBench."""


@dataclass(frozen=True)
class Weights:
    """The local folders of the encoders; None where none was given."""

    dino: Path | None = None
    clip: Path | None = None
    lpips: Path | None = None


@dataclass(frozen=True)
class RealScores(Scores):
    """The scores of one subject under one arm."""

    dino: float | None = score("DINO", "higher", aspect="fidelity")
    clip_i: float | None = score("CLIP-I", "higher")
    clip_t: float | None = score("CLIP-T", "higher", aspect="prompt")
    top_1: float | None = score("DINO-top-1", "higher")
    mean_average_precision: float | None = score("DINO-mAP", "higher")
    preservation: float | None = score("PRES", "lower", 1, "drift")
    diversity: float | None = score("DIV", "higher", 1)
    memorisation: float | None = score("MEM", "lower", 1, "memorised")


class RealSuite:
    """DINO, CLIP and LPIPS among the subjects evaluated together."""

    scores: type[Scores] = RealScores
    prompts = tuple(Prompt(f"a photo of {{subject}} {place}") for place in PLACES)
    notes: tuple[str, ...] = (LEAVE_ONE_OUT,)

    def __init__(
        self, title: str, subjects: Sequence[SubjectPictures], dino: Dino, clip: Clip, lpips: Lpips | None
    ) -> None:
        self.title = title
        self.dino, self.clip, self.lpips = dino, clip, lpips
        self.galleries = {one.name: dino.embed(one.gallery) for one in subjects}

    @classmethod
    def load(cls, base: str, subjects: Sequence[SubjectPictures], weights: Weights, device: str = "cpu") -> RealSuite:
        """Loads the encoders; BaseModelError says which folder is missing or cannot be used."""
        if weights.dino is None or weights.clip is None:
            raise BaseModelError(
                f"base {base!r} is scored by DINO and CLIP; give --dino FOLDER (facebook/dino-vits16), --clip FOLDER "
                "(openai/clip-vit-base-patch32) as saved by transformers, and for DIV --lpips FOLDER (alexnet.pth "
                "of torchvision and alex.pth of lpips)"
            )
        lpips = None if weights.lpips is None else Lpips.load(weights.lpips, device)
        title = f"{base}; DINO from {weights.dino.name}, CLIP from {weights.clip.name}"
        return cls(title, subjects, Dino.load(weights.dino, device), Clip.load(weights.clip, device), lpips)

    def of_made(self, subject: SubjectPictures, made: ArmSamples) -> RealScores:
        """Scores of what an arm made of a subject."""
        samples, own, others = self.dino.embed(made.flat), self.galleries[subject.name], self._others(subject.name)
        texts = [prompt.plain(subject.noun) for prompt in made.prompts]
        text_embeddings = self.clip.embed_texts(texts).repeat_interleave(made.pictures.shape[1], dim=0)
        seen = self.clip.embed(made.flat)
        return RealScores(
            dino=measures.fidelity(samples, own),
            clip_i=measures.fidelity(seen, self.clip.embed(subject.gallery)),
            clip_t=float((seen * text_embeddings).sum(dim=1).mean()),
            top_1=measures.top_1(samples, own, others) if others else None,
            mean_average_precision=measures.mean_average_precision(samples, own, others) if others else None,
            preservation=None if made.of_class is None else measures.fidelity(self.dino.embed(made.of_class), own),
            diversity=None if self.lpips is None else self._diversity(self.lpips, made.pictures),
            memorisation=measures.memorisation_leave_one_out(samples @ own.T, own @ own.T),
        )

    def of_real(self, subject: SubjectPictures) -> RealScores:
        """The ceiling: each real picture against the others; nothing for a single picture."""
        own, others, n = self.galleries[subject.name], self._others(subject.name), len(subject.gallery)
        if n < 2:
            return RealScores()
        rest = [torch.cat([own[:i], own[i + 1 :]]) for i in range(n)]
        queries = list(zip(own.split(1), rest, strict=True))
        return RealScores(
            dino=_mean_off_diagonal(own @ own.T),
            clip_i=_mean_off_diagonal((seen := self.clip.embed(subject.gallery)) @ seen.T),
            top_1=sum(measures.top_1(q, g, others) for q, g in queries) / n if others else None,
            mean_average_precision=(
                sum(measures.mean_average_precision(q, g, others) for q, g in queries) / n if others else None
            ),
        )

    def wrong_noun(self, noun: str) -> str:
        """A class that the subject is not."""
        return "vase" if noun.lower() == "dog" else "dog"

    def _others(self, subject: str) -> list[Tensor]:
        return [gallery for name, gallery in self.galleries.items() if name != subject]

    def _diversity(self, lpips: Lpips, pictures: Tensor) -> float | None:
        k = pictures.shape[1]
        if k < 2:
            return None
        i, j = torch.triu_indices(k, k, offset=1)
        return float(torch.stack([lpips.distance(group[i], group[j]).mean() for group in pictures]).mean())


def _mean_off_diagonal(similarities: Tensor) -> float:
    n = len(similarities)
    return float((similarities.sum() - similarities.diagonal().sum()) / (n * (n - 1)))
