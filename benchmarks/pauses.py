"""What makes a pack wait, in two trees of the code side by side: pictures, prior predictions, a job that joins.

    python benchmarks/pauses.py OTHER_TREE           on toy-sdxl, one thread, packs of 4

    previews   CPU seconds of three pictures each of four jobs that are due after the same step
    prior      CPU milliseconds of a step of four jobs with prior mode `predict`
    join       the longest that three jobs wait between two steps, and the time until the fourth takes part, which has
               thirty photographs of 1024 pixels; in seconds by the clock, as a thread works beside the steps

Each round is a process of each tree; rounds alternate, and medians are printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.loaded import LoadedBase
from lorafleet.util.machine import describe_machine
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train import Pack, TrainJob

JOBS, STEPS, DUE, SIDE = 4, 40, 20, 1024
PROMPTS = ("a photo of TOK dog", "TOK dog in the snow", "a drawing of TOK dog")


class NoTracker:
    """Keeps nothing."""

    def metrics(self, step: int, values: object) -> None: ...

    def image(self, key: str, step: int, image: object) -> None: ...


def photographs(folder: Path, count: int, side: int) -> Path:
    folder.mkdir()
    for i in range(count):
        smooth = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=95)
    return folder


def job(folder: Path, out: Path, number: int, **recipe: Any) -> TrainJob:
    images = tuple(ImageSpec(file=file.name, caption=None, sha256=sha256_of(file)) for file in sorted(folder.iterdir()))
    spec = JobSpec(
        id=f"{number:016}", submission="pauses", subject="rex", adapter="rex", base="toy-sdxl", folder=str(folder),
        images=images, class_noun="dog", instance_prompt=PROMPTS[0], steps=STEPS, dataset_fingerprint="",
        recipe=Recipe(**{"rank": 8, "batch_size": 2, "pivotal": None, "seed": number} | recipe),
        validation=Validation(prompts=PROMPTS, every=DUE),
    )  # fmt: skip
    return TrainJob(spec, out / str(number), NoTracker(), lambda step, loss: None)


def step(pack: Pack) -> float:
    """CPU seconds of one thread: neighbours on the machine do not count."""
    started = time.process_time()
    pack.step()
    return time.process_time() - started


def steps_of(base: LoadedBase, folder: Path, **recipe: Any) -> list[float]:
    """Seconds of each step of a pack up to the first that shows pictures."""
    pack = Pack(base)
    for number in range(JOBS):
        pack.join(job(folder, folder.parent / "out", number, **recipe))
    return [step(pack) for _ in range(DUE)]


def join(base: LoadedBase, folder: Path, large: Path) -> tuple[float, float]:
    """The longest wait of three jobs between two steps, and how long the fourth's preparation took in all."""
    pack, longest = Pack(base), 0.0
    for number in range(JOBS - 1):
        pack.join(job(folder, folder.parent / "out", number))
    step(pack), step(pack)
    late = job(large, folder.parent / "out", JOBS)
    started = time.perf_counter()
    if not hasattr(pack, "joining"):
        pack.join(late)
        return time.perf_counter() - started, time.perf_counter() - started
    joining, joined, before = pack.joining(late), False, started
    while not joined:
        joined = joining.advance(0.1) is not None
        longest = max(longest, time.perf_counter() - before)
        if len(pack.runs) < JOBS and pack.runs[0].step < DUE - 1:
            pack.step()
        before = time.perf_counter()
    return longest, time.perf_counter() - started


def one_round() -> dict[str, float]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder, large = photographs(Path(name, "small"), 4, 64), photographs(Path(name, "large"), 30, SIDE)
        base = LoadedBase.load(find_base("toy-sdxl"))
        plain = steps_of(base, folder)
        prior = steps_of(base, folder, prior={"mode": "predict"})
        longest, whole = join(base, folder, large)
    usual = statistics.median(plain[2:-1])
    return {
        "previews s": plain[-1] - usual, "step ms": 1000 * usual,
        "prior step ms": 1000 * statistics.median(prior[2:-1]), "join longest wait s": longest, "join s": whole,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="a tree to compare this one with")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.other is None:
        print(json.dumps(one_round()))
        return
    trees, found = {"other": arguments.other, "this": Path(__file__).parents[1]}, dict[str, list[dict[str, float]]]()
    for _ in range(arguments.rounds):
        for name, tree in trees.items():
            path = os.pathsep.join(str(tree / package) for package in ("platform", "jobs", "serve"))
            environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            said = subprocess.run([sys.executable, __file__], env=environment, stdout=subprocess.PIPE, check=True)
            found.setdefault(name, []).append(json.loads(said.stdout.splitlines()[-1]))
    medians = {
        name: {key: round(statistics.median(each[key] for each in rounds), 3) for key in rounds[0]}
        for name, rounds in found.items()
    }
    print(json.dumps({"machine": describe_machine()} | medians, indent=1))


if __name__ == "__main__":
    main()
