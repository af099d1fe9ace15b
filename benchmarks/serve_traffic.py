"""What the serving bench asks for, with which adapters, and what came of it. Knows seconds and bundles, no engine."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from safetensors.torch import save

from lorafleet.bases import Base
from lorafleet.bundle.bundle import WEIGHTS, AdapterCard, Trigger, write_bundle
from lorafleet.targets import PRESETS, select

RANKS = (4, 8, 12, 16)
STRENGTH = 0.12
"""Of both factors' entries: enough that the adapter shows in every picture."""
Shapes = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Asked:
    """One request: when, in seconds after the start, what, and by which adapter."""

    at: float
    prompt: str
    seed: int
    adapter: int


@dataclass(frozen=True)
class Answered:
    """When its picture was there, in seconds after the start, and the picture."""

    at: float
    image: Image


@dataclass(frozen=True)
class Seen:
    """One run of some requests."""

    seconds: float
    """From the first request to the last picture."""
    cpu_seconds: float
    """Of the process, all its threads: hardly touched by what else the machine does."""
    latencies: tuple[float, ...]

    @property
    def images_per_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def cpu_ms_an_image(self) -> float:
        return 1000 * self.cpu_seconds / len(self.latencies)

    def percentile(self, percent: int) -> float:
        """Of the latencies, by rank."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def random_bundles(folder: Path, base: Base, shapes: Shapes, count: int, ranks: Sequence[int] = RANKS) -> list[Path]:
    """So many adapters of the attention layers with random weights, as real bundles; ranks take turns."""
    return [random_bundle(folder / f"subject-{i}", base, shapes, ranks[i % len(ranks)], i) for i in range(count)]


def random_bundle(path: Path, base: Base, shapes: Shapes, rank: int, seed: int) -> Path:
    """One of them. Its trigger stands for itself, so that a prompt is the same text for everyone."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for layer in select(shapes, "attn"):
        n_in, n_out = shapes[layer]
        tensors[f"unet.{layer}.lora_A.weight"] = torch.randn(rank, n_in, generator=generator) * STRENGTH
        tensors[f"unet.{layer}.lora_B.weight"] = torch.randn(n_out, rank, generator=generator) * STRENGTH / rank**0.5
    card = AdapterCard(
        name=path.name, base=base.name, base_fingerprint=base.fingerprint, prediction=base.prediction, rank=rank,
        alpha=float(rank), targets=PRESETS["attn"], class_noun="mug", images=1, steps=1,
        triggers=(Trigger(trigger=f"<{path.name}>", abstraction="TOK", text="TOK"),), recipe={},
        dataset_fingerprint="", instance_prompt="a photo of TOK mug", licence=base.licence, job_id=path.name,
        lorafleet_version="0",
    )  # fmt: skip
    write_bundle(path, card, {WEIGHTS: save(tensors)})
    return path


def traffic(count: int, adapters: int, series: int, rate: float | None = None) -> list[Asked]:
    """Requests over adapters, each as often as any other, in a mixed order; all at once, or `rate` a second.

    No prompt occurs twice in all series, so that nothing can be remembered of one.
    """
    order = [i % adapters for i in range(count)]
    random.Random(series).shuffle(order)
    first = 1000 * series
    return [
        Asked(i / rate if rate else 0.0, f"a photo of TOK mug {first + i}", first + i, adapter)
        for i, adapter in enumerate(order)
    ]


def one_by_one(asked: Sequence[Asked], most: int, make: Callable[[Sequence[Asked]], list[Image]]) -> list[Answered]:
    """Serves first come first served by `make`, up to `most` requests that are there at a time."""
    started, answers = time.perf_counter(), list[Answered]()
    while len(answers) < len(asked):
        left = asked[len(answers) :]
        time.sleep(max(0.0, started + left[0].at - time.perf_counter()))
        now = time.perf_counter() - started
        images = make([one for one in left[:most] if one.at <= now] or left[:1])
        answers += [Answered(time.perf_counter() - started, image) for image in images]
    return answers


def seen(asked: Sequence[Asked], serve: Callable[[Sequence[Asked]], list[Answered]]) -> Seen:
    """Serves and measures."""
    cpu = time.process_time()
    answers = serve(asked)
    cpu = time.process_time() - cpu
    latencies = tuple(answer.at - one.at for one, answer in zip(asked, answers, strict=True))
    return Seen(max(answer.at for answer in answers), cpu, latencies)


def summary(runs: Sequence[Seen]) -> dict[str, float]:
    """Medians over rounds."""
    return {
        "images_per_second": statistics.median(run.images_per_second for run in runs),
        "p50_seconds": statistics.median(run.percentile(50) for run in runs),
        "p95_seconds": statistics.median(run.percentile(95) for run in runs),
        "cpu_ms_an_image": statistics.median(run.cpu_ms_an_image for run in runs),
    }
