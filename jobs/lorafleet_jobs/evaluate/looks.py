"""Rendered real pictures of the toy world: held-out views of made-up subjects, and identities that resemble a subject.

Look-alikes come from a stream of identities of their own, which no base, judge or subject was made from. Knows the
renderer and the judge's embedding. Refuses to know adapters and scores.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lorafleet.toy.judges import Judge, as_tensor, load_judge
from lorafleet.toy.render import render
from lorafleet.toy.subjects import Subject
from lorafleet.toy.world import Identity, random_identity, random_scene
from lorafleet_jobs.evaluate.pictures import SubjectPictures

CANDIDATES = 100
LOOK_ALIKES = 5
VIEWS = 4
"""Pictures of a candidate, to choose by."""


@dataclass(frozen=True, eq=False)
class LookAlike:
    """One identity of the look-alikes' stream."""

    name: str
    identity: Identity
    embedding: Tensor
    """Mean over VIEWS views, of unit length [d]."""

    def gallery(self, count: int) -> Tensor:
        """Other views of it, [count, 3, SIDE, SIDE] in [0, 1]."""
        return rendered(self.identity, f"{self.name}-gallery", count)


def rendered(identity: Identity, stream: str, count: int) -> Tensor:
    """`count` random views of an identity, [count, 3, SIDE, SIDE] in [0, 1]; the same stream gives the same views."""
    rng = random.Random(stream)
    return unit_pictures([render(random_scene(identity, rng)) for _ in range(count)])


def unit_pictures(images: Sequence[Image.Image]) -> Tensor:
    """Pictures at the toy world's size, [n, 3, SIDE, SIDE] in [0, 1]."""
    return as_tensor(images) / 2 + 0.5


@torch.no_grad()
def embed(judge: Judge, pictures: Tensor) -> Tensor:
    """The judge's identity embeddings [n, d] of pictures in [0, 1]."""
    return judge.embed(pictures * 2 - 1)


def look_alikes(gallery: Tensor, noun: str, count: int = LOOK_ALIKES) -> list[LookAlike]:
    """The candidates of the class nearest to a subject's gallery (embeddings [m, d]), by the cosine of the means."""
    candidates = _candidates(noun)
    mean = F.normalize(gallery.mean(dim=0), dim=0)
    similar = torch.stack([candidate.embedding for candidate in candidates]) @ mean
    return [candidates[i] for i in similar.topk(count).indices.tolist()]


@lru_cache
def _candidates(noun: str) -> tuple[LookAlike, ...]:
    look_alikes = []
    for i in range(CANDIDATES):
        name = f"look-alike-{noun}-{i}"
        identity = random_identity(random.Random(name), noun)
        embeddings = embed(load_judge(), rendered(identity, f"{name}-views", VIEWS))
        look_alikes.append(LookAlike(name, identity, F.normalize(embeddings.mean(dim=0), dim=0)))
    return tuple(look_alikes)


def made_up_subject(subject: Subject, views: int = 8) -> SubjectPictures:
    """A made-up subject with real views that its adapter never saw.

    Its gallery is `Subject.gallery`; its held-out views are one more for each training picture, on that picture's
    background, so that nothing but a copied pose and texture makes a sample nearer to the training picture.
    """
    training = subject.pictures()
    rng = random.Random(f"held-out-{subject.name}")
    seen = load_judge().read(as_tensor(training))
    twins = [render(replace(random_scene(subject.identity, rng), background=one["background"])) for one in seen]
    return SubjectPictures(
        subject.name,
        subject.identity.noun,
        unit_pictures(training),
        unit_pictures(subject.gallery(views)),
        unit_pictures(twins),
    )
