"""Writes subjects of the toy world as a user has them: folders of pictures with captions, and a manifest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from lorafleet.toy.render import SIDE, render
from lorafleet.toy.world import BACKGROUNDS, Identity, random_scene, unseen_identity

PICTURE_SIDE = 2 * SIDE  # a photo is larger than what a base paints


@dataclass(frozen=True)
class Subject:
    """A made-up subject: its name, its identity and the folder of its pictures."""

    name: str
    identity: Identity
    folder: Path

    def pictures(self) -> list[Image.Image]:
        """Its training pictures, in the order of their names."""
        return [Image.open(path).convert("RGB") for path in sorted(self.folder.glob("*.png"))]

    def gallery(self, count: int = 8) -> list[Image.Image]:
        """Views of the subject that are not among its training pictures."""
        rng = random.Random(f"gallery-{self.name}")
        return [render(random_scene(self.identity, rng)) for _ in range(count)]


def write_subjects(folder: Path, nouns: Sequence[str], pictures: int = 6) -> list[Subject]:
    """Renders one subject that no base has seen for each noun, with `pictures` captioned pictures."""
    subjects = []
    for index, noun in enumerate(nouns):
        subject = Subject(f"{noun}-{index + 1:02d}", unseen_identity(index, noun), folder / f"{noun}-{index + 1:02d}")
        subject.folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(f"views-{index}")
        for i in range(pictures):
            scene = random_scene(subject.identity, rng)
            render(scene, PICTURE_SIDE).save(subject.folder / f"{i:02d}.png")
            caption = f"a photo of TOK {noun} {BACKGROUNDS[scene.background]}"
            (subject.folder / f"{i:02d}.txt").write_text(caption + "\n")
        subjects.append(subject)
    return subjects


def write_manifest(
    path: Path, name: str, base: str, subjects: Sequence[Subject], lanes: int = 2, **recipe: object
) -> None:
    """A manifest over the subjects, with paths relative to it."""
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "lorafleet/v1alpha1",
                "name": name,
                "base": base,
                "recipe": {"preset": "object", **recipe},
                "subjects": [
                    {"name": s.name, "images": str(s.folder.relative_to(path.parent)), "class": s.identity.noun}
                    for s in subjects
                ],
                "resources": {"lanes": lanes},
            },
            sort_keys=False,
        )
    )
