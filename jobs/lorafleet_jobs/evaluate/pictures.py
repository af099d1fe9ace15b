"""What scores are made from: a subject's real pictures, and what an arm made of it.

All pictures are [n, 3, h, w] in [0, 1]. Knows prompts and seeds. Refuses to know scores.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet_jobs.evaluate.arms import Arm, with_article
from lorafleet_jobs.evaluate.sampler import sample_arm

OF_CLASS = "a photo of {subject}"


@dataclass(frozen=True)
class Prompt:
    """A prompt with `{subject}` where the subject is named, and the toy background that it asks for, if any."""

    template: str
    background: str | None = None

    def plain(self, noun: str) -> str:
        """The prompt without the subject's word: what the picture must show in anybody's eyes."""
        return self.template.format(subject=with_article(noun))


@dataclass(frozen=True, eq=False)
class SubjectPictures:
    """What is known of one subject."""

    name: str
    noun: str
    training: Tensor
    """What its adapter saw."""
    gallery: Tensor
    """The real views that samples are compared with; the training pictures themselves where there are no others."""
    held_out: Tensor | None = None
    """Real views in neither, best on the training pictures' backgrounds one by one; None if there are none."""


@dataclass(frozen=True, eq=False)
class ArmSamples:
    """What one arm made of one subject."""

    prompts: tuple[Prompt, ...]
    pictures: Tensor
    """[prompts, samples, 3, h, w]"""
    of_class: Tensor | None
    """Pictures of "a photo of a <class>" with the adapter on, for prior preservation; None if not asked for."""

    @property
    def flat(self) -> Tensor:
        """All pictures of the prompts, [prompts * samples, 3, h, w]."""
        return self.pictures.flatten(0, 1)


@dataclass(frozen=True)
class SamplingOptions:
    """How pictures are sampled."""

    samples: int = 4
    """Pictures for each prompt."""
    of_class: int = 8
    """Pictures of the plain class."""
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    side: int | None = None


def make(
    loaded: LoadedBase, arm: Arm, subject: str, prompts: Sequence[Prompt], how: SamplingOptions, prior: bool = True
) -> ArmSamples:
    """Samples an arm for a subject; seeds depend on (seed, subject) alone, so that a subject's arms compare."""
    options = {"steps": how.steps, "guidance": how.guidance, "side": how.side}
    templates = [prompt.template for prompt in prompts for _ in range(how.samples)]
    seeds = picture_seeds(how.seed, subject, len(templates) + how.of_class)
    flat = sample_arm(loaded, arm, templates, seeds[: len(templates)], **options)  # type: ignore[arg-type]
    of_class: Tensor | None = None
    if prior and how.of_class:
        plain = Arm(arm.name, arm.adapter, arm.scale, "", arm.noun)
        of_class = sample_arm(loaded, plain, [OF_CLASS] * how.of_class, seeds[len(templates) :], **options)  # type: ignore[arg-type]
    return ArmSamples(tuple(prompts), flat.unflatten(0, (len(prompts), how.samples)), of_class)


def picture_seeds(seed: int, subject: str, count: int) -> list[int]:
    """The seeds of a subject's pictures."""
    rng = random.Random(f"evaluate-{seed}-{subject}")
    return [rng.getrandbits(31) for _ in range(count)]


def same_pictures(a: ArmSamples, b: ArmSamples) -> bool:
    """Whether two arms made the same pictures, to the bit."""
    both = a.of_class is not None and b.of_class is not None
    return torch.equal(a.pictures, b.pictures) and (not both or torch.equal(a.of_class, b.of_class))  # type: ignore[arg-type]
