"""The micro-batches of a job: each is a function of the job and its index alone, so a resumed job needs no state.

Knows images, texts and their draws; refuses to know noise levels, losses and optimizers.

Every image is read and verified when the job begins. With centre crop, where an image has one or two views, latents are
encoded then too; those of random crops and of class images are encoded when first drawn, since there may be many that
a short job never draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lorafleet.loaded import LoadedBase
from lorafleet.numerics.generators import generator_for
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.data.buckets import BucketCycle, EpochStream, bucket_sizes, nearest
from lorafleet_jobs.train.data.caption_choice import class_prompt, drawn_caption
from lorafleet_jobs.train.data.geometry import Size, View, views
from lorafleet_jobs.train.data.latents import Latents
from lorafleet_jobs.train.data.loss_masks import Masks
from lorafleet_jobs.train.data.pieces import InPieces, Pieces, awaited
from lorafleet_jobs.train.data.prior import class_sources
from lorafleet_jobs.train.data.sources import Source


@dataclass(frozen=True)
class Batch:
    """n rows of one size: the subject's first, then the class's."""

    z: Tensor
    """[n, c, h, w] model latents, fp32, drawn from the VAE's posterior."""
    captions: list[str]
    """"" for no conditioning, as guidance uses it."""
    time_ids: Tensor
    """[n, 6] fp32."""
    weights: Tensor
    """[n] of each row's loss: the weighted sum is L_instance + prior.weight * L_class, each a mean over its rows."""
    mask: Tensor | None
    """[n, 1, h, w] weight of each latent pixel's loss; None if no row has one. No row is all zeros."""
    predicted: int
    """How many rows, the last ones, have the base's own prediction as their target."""


@dataclass(frozen=True)
class _Row:
    source: Source
    view: View
    caption: str


@dataclass(frozen=True)
class _Bucket:
    window: Size
    sources: list[Source]


@dataclass
class Dataset:
    """The images and captions that one job is trained on."""

    spec: JobSpec
    loaded: LoadedBase
    latents: Latents
    masks: Masks | None
    buckets: list[_Bucket]
    class_images: list[Source]

    @classmethod
    def open(cls, spec: JobSpec, loaded: LoadedBase, cache: Path | None = None) -> Dataset:
        """Reads and verifies every image of a job; makes the class images if they are to be generated.

        `cache` is the home's folder of latents and class images; None keeps them in memory only. Raises DataError if
        an image is gone, damaged, or not the one that was planned with.
        """
        return InPieces(partial(cls.opening, spec, loaded, cache)).finish()

    @classmethod
    def opening(cls, spec: JobSpec, loaded: LoadedBase, cache: Path | None, thread: Executor) -> Pieces[Dataset]:
        """The same in pieces: none is longer than the VAE takes for a picture, or the base to make a class image."""
        recipe, base = spec.recipe, loaded.base
        side = recipe.resolution or base.resolution
        sources = yield from awaited(thread.submit(Source.open_all, Path(spec.folder), spec.images))
        dataset = cls(
            spec,
            loaded,
            Latents(loaded, cache),
            Masks(recipe.masked_loss, base.vae_factor) if recipe.masked_loss is not None else None,
            _in_buckets(sources, bucket_sizes(side) if recipe.buckets else [Size(side, side)]),
            (yield from class_sources(spec, loaded, sources, cache, thread)),
        )
        if recipe.crop == "center":
            shown = dataset._shown()
            yield from dataset.latents.prepare([(source.file, view) for source, view in shown], thread)
            if dataset.masks is not None:
                yield from awaited(thread.submit(dataset.masks.prepare, shown))
        return dataset

    def _shown(self) -> list[tuple[Source, View]]:
        """Every view of the subject's images."""
        return [
            (source, view)
            for bucket in self.buckets
            for source in bucket.sources
            for view in self._views(source, bucket.window)
        ]

    def __len__(self) -> int:
        """Images in an epoch, repeats counted."""
        return len(self.spec.images) * self.spec.recipe.repeats

    def batch(self, index: int) -> Batch:
        """The index-th micro-batch of the job, counted from 0; its tensors are in host memory."""
        rows, classes = self._rows(index)
        all_rows = [*rows, *classes]
        posteriors = [self.latents.posterior(row.source.file, row.view) for row in all_rows]
        mean, std = torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])
        noise = torch.randn(mean.shape, generator=self._generator("latents", index))

        prior = self.spec.recipe.prior
        weights = [1 / len(rows)] * len(rows)
        if prior is not None:
            weights += [prior.weight / len(classes)] * len(classes)
        mask: Tensor | None = None
        if self.masks is not None and any(row.source.mask is not None for row in all_rows):
            mask, factors = self.masks.of([(row.source, row.view) for row in all_rows])
            weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
        return Batch(
            z=self.loaded.scale.to_model(mean + std * noise),
            captions=[row.caption for row in all_rows],
            time_ids=torch.cat([row.view.time_ids(row.source.size) for row in all_rows]),
            weights=torch.tensor(weights),
            mask=mask,
            predicted=len(classes) if prior is not None and prior.mode == "predict" else 0,
        )

    def _rows(self, index: int) -> tuple[list[_Row], list[_Row]]:
        """The subject's rows and the class's rows of a micro-batch."""
        recipe, seed = self.spec.recipe, self.spec.recipe.seed
        drawn = BucketCycle.of([len(bucket.sources) for bucket in self.buckets]).at(index)
        bucket, size = self.buckets[drawn.bucket], recipe.batch_size
        order = EpochStream(len(bucket.sources) * recipe.repeats, seed, "order", drawn.bucket)
        sources = [bucket.sources[i // recipe.repeats] for i in order.take(drawn.ordinal * size, size)]
        generator, prompt = self._generator("captions", index), self.spec.instance_prompt
        captions = [drawn_caption(source.caption, prompt, recipe, generator) for source in sources]
        rows = self._drawn(sources, captions, bucket.window, "views", index)
        if recipe.prior is None:
            return rows, []
        size = recipe.prior.batch_size or recipe.batch_size
        order = EpochStream(len(self.class_images), seed, "class order")
        of_class = [self.class_images[i] for i in order.take(index * size, size)]
        return rows, self._drawn(of_class, [class_prompt(self.spec)] * size, bucket.window, "class views", index)

    def _drawn(
        self, sources: Sequence[Source], captions: Sequence[str], window: Size, purpose: str, index: int
    ) -> list[_Row]:
        generator, rows = self._generator(purpose, index), []
        for source, caption in zip(sources, captions, strict=True):
            choices = self._views(source, window)
            view = choices[int(torch.randint(len(choices), (), generator=generator))]
            rows.append(_Row(source, view, caption))
        return rows

    def _views(self, source: Source, window: Size) -> list[View]:
        return views(source.size, window, self.spec.recipe.flip, self.spec.recipe.crop)

    def _generator(self, purpose: str, index: int) -> torch.Generator:
        return generator_for(self.spec.recipe.seed, purpose, index)


def _in_buckets(sources: Sequence[Source], sizes: Sequence[Size]) -> list[_Bucket]:
    """Every source in the bucket of the nearest shape; empty buckets are left out."""
    by_size: dict[Size, list[Source]] = {}
    for source in sources:
        by_size.setdefault(nearest(source.size, sizes), []).append(source)
    return [_Bucket(size, by_size[size]) for size in sorted(by_size)]
