"""A job's score at a rung of its sweep, and what follows from it. Knows pictures, losses and verdicts.

    score         the toy world's: (toy-ID + toy-PF) / 2 of `evaluate.toy`, on the validation pictures
    dino, clip-i  mean cosine of the validation pictures to the training pictures
    clip-t        mean cosine of the validation pictures to their prompts, the subject's word left out
    loss          the mean of the last losses, negative

More is better. Prompts, seeds and noise are the same for all points of a subject, so scores of one subject compare;
those of two do not. Refuses to know who else there is (`jobqueue.asha`, behind `ask`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from lorafleet.bundle.ports import JobTracker
from lorafleet.toy.judges import load_judge
from lorafleet.toy.render import SIDE
from lorafleet.toy.world import BACKGROUNDS
from lorafleet_jobs.evaluate import measures
from lorafleet_jobs.evaluate.encoders import Clip, Dino
from lorafleet_jobs.evaluate.find import training_pictures
from lorafleet_jobs.evaluate.looks import embed, unit_pictures
from lorafleet_jobs.jobqueue.asha import Halving, Verdict, share
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train import EarlyStopped, NoTrial, Trial
from lorafleet_jobs.train.previews.validate import validation_texts, without_subject

RECENT = 20
"""Losses that the metric `loss` looks back on."""
Scorer = Callable[[Sequence[Image], Sequence[float]], float]
Ask = Callable[[int, float], Verdict]
"""Told (rung, score); answers whether the job goes on, or raises what `TrainJob.on_step` raises."""


@dataclass(frozen=True)
class ScoredTrial:
    """A job among the points of its sweep: `lorafleet_jobs.train.Trial`."""

    spec: JobSpec
    halving: Halving
    wants_pictures: bool
    scorer: Scorer
    ask: Ask

    def is_due(self, step: int) -> bool:
        """At its rungs, and at the end, which is only noted."""
        return step == self.spec.steps or step in self.halving.rungs()

    def report(self, step: int, pictures: Sequence[Image], losses: Sequence[float], tracker: JobTracker) -> None:
        """Scores the job and asks whether it goes on; raises EarlyStopped if it does not."""
        score = self.scorer(pictures, losses)
        tracker.metrics(step, {"eval/score": score})
        if step == self.spec.steps:
            return
        verdict = self.ask(step, score)
        if not verdict.goes_on:
            raise EarlyStopped(self._reason(step, score, verdict))

    def _reason(self, step: int, score: float, verdict: Verdict) -> str:
        name, sign = ("score", 1) if self.wants_pictures else ("loss", -1)
        assert verdict.bar is not None  # the first at a rung always goes on
        return (
            f"stopped at step {step} of {self.spec.steps} by early_stop: {name} {sign * score:.4g}, "
            f"the best {share(self.halving.eta)} begins at {sign * verdict.bar:.4g}"
        )


def trial_of(spec: JobSpec, ask: Ask, device: str) -> Trial:
    """The trial of a job; `NoTrial` without early stop.

    Raises DataError or BaseModelError if its pictures or the encoder cannot be read.
    """
    halving = Halving.of(spec)
    if halving is None or spec.early_stop is None:
        return NoTrial()
    return ScoredTrial(spec, halving, spec.early_stop.looks, _scorer(spec, device), ask)


def _scorer(spec: JobSpec, device: str) -> Scorer:
    early = spec.early_stop
    assert early is not None
    if early.metric == "score":
        return ToyScore(spec)
    if early.metric == "loss":
        return recent_loss
    assert early.weights is not None  # the manifest was checked
    if early.metric == "clip-t":
        return PromptScorer(spec, _clip(early.weights, device))
    return SubjectScorer(spec, (_dino if early.metric == "dino" else _clip)(early.weights, device))


def recent_loss(pictures: Sequence[Image], losses: Sequence[float]) -> float:
    """The mean of the last RECENT losses, negative; the pictures are not looked at."""
    return -fmean(losses[-RECENT:])


class ToyScore:
    """How much of the subject and of the prompt the toy world's judge sees."""

    def __init__(self, spec: JobSpec) -> None:
        self._judge = load_judge()
        self._gallery = embed(self._judge, training_pictures(spec, SIDE))
        self._asked = [_asked(text, spec.class_noun) for text in validation_texts(spec)]

    def __call__(self, pictures: Sequence[Image], losses: Sequence[float]) -> float:
        """(toy-ID + toy-PF) / 2."""
        x = unit_pictures(pictures)
        identity = measures.fidelity(embed(self._judge, x), self._gallery)
        seen = self._judge.read(x * 2 - 1)
        shown = [one[key] == word for one, asked in zip(seen, self._asked, strict=True) for key, word in asked.items()]
        return (identity + fmean(shown)) / 2


class SubjectScorer:
    """How near the pictures are to the training pictures."""

    def __init__(self, spec: JobSpec, encoder: Dino | Clip) -> None:
        self._encoder = encoder
        self._gallery = encoder.embed(training_pictures(spec, encoder.prepare.side))

    def __call__(self, pictures: Sequence[Image], losses: Sequence[float]) -> float:
        """DreamBooth's DINO or CLIP-I score (2208.12242, section 4.1)."""
        return measures.fidelity(self._encoder.embed(_in_unit_range(pictures)), self._gallery)


class PromptScorer:
    """How near the pictures are to their prompts."""

    def __init__(self, spec: JobSpec, clip: Clip) -> None:
        self._clip = clip
        self._said = clip.embed_texts([without_subject(spec, text) for text in validation_texts(spec)])

    def __call__(self, pictures: Sequence[Image], losses: Sequence[float]) -> float:
        """DreamBooth's CLIP-T score."""
        return float((self._clip.embed(_in_unit_range(pictures)) * self._said).sum(dim=1).mean())


def _asked(text: str, noun: str) -> dict[str, str]:
    """What a picture of a toy prompt must show, as the judge says it: the class, and the background if one is named."""
    place = next((name for name, words in BACKGROUNDS.items() if words in text), None)
    return {"class": noun} if place is None else {"class": noun, "background": place}


def _in_unit_range(pictures: Sequence[Image]) -> Tensor:
    """[n, 3, h, w] in [0, 1]."""
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures]
    return torch.from_numpy(np.stack(arrays) / 255).permute(0, 3, 1, 2).contiguous()


@lru_cache(maxsize=1)  # all jobs of a lane share it
def _dino(folder: str, device: str) -> Dino:
    return Dino.load(Path(folder), device)


@lru_cache(maxsize=1)
def _clip(folder: str, device: str) -> Clip:
    return Clip.load(Path(folder), device)
