"""Class images of prior preservation (Ruiz et al. 2022, section 3.2): a folder's, the base's own, or the subject's.

Generated images are made once per base, prompt and settings, and shared by all jobs of a home, in whatever process.
They are kept by the base's fingerprint, so that what one base made never trains another: Playground's licence forbids
to train other models on its pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.samplers import sampler_names
from lorafleet.pictures import sample_pictures, to_image
from lorafleet_jobs.jobspec import CLASS_IMAGES_CARD as CARD
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.data.cache_files import only_process, write_whole
from lorafleet_jobs.train.data.caption_choice import class_prompt
from lorafleet_jobs.train.data.pieces import Pieces, awaited
from lorafleet_jobs.train.data.sources import File, Source

MAKING_CODE = "1"
"""To be raised when the same settings give other pictures; part of their key."""


def class_sources(
    spec: JobSpec, loaded: LoadedBase, own: list[Source], cache: Path | None, thread: Executor
) -> Pieces[list[Source]]:
    """The class images of a job with prior preservation, `own` being the subject's. Raises DataError."""
    prior = spec.recipe.prior
    if prior is None:
        return []
    if prior.mode == "generate":
        files = yield from Maker.of(spec, loaded).files(prior.count, cache, thread)
        return (yield from awaited(thread.submit(lambda: [Source.of_file(file) for file in files])))
    if (images := spec.class_images) is not None:
        return (yield from awaited(thread.submit(Source.open_all, Path(images.folder), images.images)))
    return [Source(source.file, source.size) for source in own]


@dataclass(frozen=True)
class Maker:
    """Makes class images with the base without adapters, image i with seed i."""

    loaded: LoadedBase
    prompt: str
    side: int

    @classmethod
    def of(cls, spec: JobSpec, loaded: LoadedBase) -> Maker:
        """The maker of images of a job's class at its resolution."""
        return cls(loaded, class_prompt(spec), spec.recipe.resolution or loaded.base.resolution)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the pictures depend on, beside their seeds."""
        base = self.loaded.base
        licence = {} if base.record is None else {"licence": base.licence}
        return {
            "code": MAKING_CODE, "base": base.fingerprint, "vae": base.vae_fingerprint, "prompt": self.prompt,
            "precision": str(self.loaded.unet.dtype), "resolution": self.side, "sampler": sampler_names(base)[0],
            "steps": base.default_steps, "guidance": base.default_guidance, **base.chosen,
            **licence,
        }  # fmt: skip

    def files(self, count: int, cache: Path | None, thread: Executor) -> Pieces[list[File]]:
        """The first `count` images; those that are not in the cache are made, while other processes wait for them."""
        if cache is None:
            made = []
            for seed in range(count):
                made.append(self.make(seed))
                yield None
            return [File(data, hashlib.sha256(data).hexdigest()) for data in made]
        key = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:32]
        with (yield from only_process(cache / "prior" / f"{key}.lock", thread)):
            return (yield from self._kept(count, cache / "prior" / key, thread))

    def _kept(self, count: int, folder: Path, thread: Executor) -> Pieces[list[File]]:
        hashes = _hashes(folder / CARD)
        for seed in range(count):
            path = folder / _name(seed)
            if (yield from awaited(thread.submit(_is_kept, path, hashes))):
                continue
            data = self.make(seed)
            write_whole(path, data)
            hashes[path.name] = hashlib.sha256(data).hexdigest()
            images = [{"file": _name(i), "seed": i, "sha256": hashes[_name(i)]} for i in range(len(hashes))]
            write_whole(folder / CARD, json.dumps({**self.settings, "images": images}, indent=1).encode())
        return [File(folder / _name(seed), hashes[_name(seed)]) for seed in range(count)]

    @torch.no_grad()
    def make(self, seed: int) -> bytes:
        """One picture as PNG; one at a time, so that it does not depend on others."""
        loaded = self.loaded
        positive = loaded.prompts.encode(loaded.prompts.token_ids([self.prompt]))
        pixels = sample_pictures(loaded, positive, loaded.unconditional(1), [seed], side=self.side)
        file = BytesIO()
        to_image(pixels[0]).save(file, "PNG")
        return file.getvalue()


def _is_kept(path: Path, hashes: Mapping[str, str]) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == hashes.get(path.name)


def _hashes(card: Path) -> dict[str, str]:
    """sha256 of the images by file name; empty if the card is damaged or an image is missing in the sequence."""
    try:
        images = json.loads(card.read_bytes())["images"]
        hashes = {str(image["file"]): str(image["sha256"]) for image in images}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return hashes if list(hashes) == [_name(seed) for seed in range(len(hashes))] else {}


def _name(seed: int) -> str:
    return f"{seed:04}.png"
