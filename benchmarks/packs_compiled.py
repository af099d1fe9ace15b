"""What sharing calls is worth, and torch.compile: the same pack of eight, its calls shared, each job's own, compiled.

Steps are interleaved, so that a noisy machine disturbs all alike. Part of `packs.py`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import packs_arms as arms

from lorafleet.bases import Base
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.batching import CompiledBatching, DynamicBatching, ExactBatching
from lorafleet_jobs.train.pack import train_step
from lorafleet_jobs.train.training import Training

STEPS = 40


def measure(base: Base, jobs: int, rank: int, batch: int) -> dict[str, float]:
    """Milliseconds of a pack's step in each way, medians, and how long the first, compiling step took."""
    warm = LoadedBase.load(base)
    calls = {"shared": DynamicBatching(), "own": ExactBatching(), "compiled": CompiledBatching(warm, jobs)}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with tempfile.TemporaryDirectory() as folder:
        specs = arms.jobs(Path(folder), base.name, jobs, steps=len(calls) * (STEPS + 1), rank=rank, batch_size=batch)
        trainings = [Training.prepare(spec, warm) for spec in specs]
        step = 0
        for _ in range(STEPS + 1):
            for name, each in calls.items():
                step += 1
                started = time.perf_counter()
                for outcome in train_step([(training, step) for training in trainings], each):
                    if isinstance(outcome, Exception):
                        raise outcome
                taken[name].append(time.perf_counter() - started)
    found = {name: 1000 * statistics.median(times[1:]) for name, times in taken.items()}
    said = "  ".join(f"{name} {value:.1f} ms" for name, value in found.items())
    print(f"batch {batch}: {said}, compiling {taken['compiled'][0]:.0f} s", file=sys.stderr, flush=True)
    return {
        **{f"{name}_milliseconds": value for name, value in found.items()},
        "shared/own": found["shared"] / found["own"], "shared/compiled": found["shared"] / found["compiled"],
        "compiling_seconds": taken["compiled"][0],
    }  # fmt: skip
