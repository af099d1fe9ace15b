"""Which technique learns a subject best, and at what price: every cell trained on the same twenty toy subjects.

    ./dev bench quality [--group NAME] [--workers N]      trains and scores what results/quality.jsonl lacks
    ./dev bench quality_report                            writes the tables of docs/quality.md from it

Two subjects of each of the ten classes, six pictures each; a sample is told apart from all twenty and from five
look-alikes of each (`lorafleet_jobs.evaluate`). All cells of a base share subjects, seeds and training length, so that
differences are paired by subject. Toy base, 32 px: nothing here speaks of photographs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Validation
from lorafleet.loaded import LoadedBase
from lorafleet.toy.subjects import Subject, write_subjects
from lorafleet.toy.world import CLASSES
from lorafleet.util.machine import describe_machine
from lorafleet.util.quiet import quiet_libraries
from lorafleet_jobs.evaluate.arms import adapter_arm, base_arm
from lorafleet_jobs.evaluate.looks import made_up_subject
from lorafleet_jobs.evaluate.pictures import SamplingOptions, make
from lorafleet_jobs.evaluate.suite import Scores
from lorafleet_jobs.evaluate.toy import ToySuite
from lorafleet_jobs.intake.recipes import resolve_recipe
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training

RESULTS = Path(__file__).parent / "results" / "quality.jsonl"
SHARED = {"steps": 200, "rank": 8, "batch_size": 4, "lr_scheduler": "cosine", "pivotal": {"tokens": 4, "fraction": 0.5}}
TI = {"unet_fraction": 0, "pivotal": {"tokens": 4, "fraction": 1.0}}
HOW = SamplingOptions(samples=2)
LORA: dict[str, Any] = {"pivotal": None}


@dataclass(frozen=True)
class Cell:
    """One recipe over one base, scored after the last step and after those in `also`."""

    name: str
    base: str
    recipe: dict[str, Any]
    also: tuple[int, ...] = ()


def lognormal(P_mean: float, P_std: float) -> dict[str, Any]:
    return {"name": "lognormal", "P_mean": P_mean, "P_std": P_std}


EPSILON = "toy-sdxl"
EDM = "toy-playground"
GROUPS = {
    "techniques": [
        Cell("pivotal", EPSILON, {}),
        Cell("LoRA", EPSILON, LORA),
        Cell("TI", EPSILON, TI),
        Cell("pivotal, prior predict", EPSILON, {"prior": {"mode": "predict"}}),
        Cell("LoRA r2", EPSILON, LORA | {"rank": 2}),
        Cell("DoRA r2", EPSILON, LORA | {"rank": 2, "dora": True}),
        Cell("DoRA", EPSILON, LORA | {"dora": True}),
        Cell("pivotal, prior generate", EPSILON, {"prior": {"mode": "generate", "count": 16}}),
        Cell("pivotal, min-SNR 5", EPSILON, {"min_snr_gamma": 5.0}),
        Cell("pivotal, long", EPSILON, {"steps": 600, "lr_scheduler": "constant"}, (100, 200)),
    ],
    "edm": [
        Cell("pivotal", EDM, {}),
        Cell("LoRA", EDM, LORA),
        Cell("TI", EDM, TI),
        Cell("pivotal, min-SNR 5", EDM, {"min_snr_gamma": 5.0}),
    ],
    "levels": [
        Cell("uniform-grid, unit (diffusers)", EDM, {"weighting": "none", "sigma_sampler": "uniform-grid"}),
        Cell("lognormal -0.4 1.2, edm", EDM, {"sigma_sampler": lognormal(-0.4, 1.2)}),
        Cell("uniform-grid, edm", EDM, {"sigma_sampler": "uniform-grid"}),
        Cell("lognormal -1.2 1.2, unit", EDM, {"weighting": "none", "sigma_sampler": lognormal(-1.2, 1.2)}),
        Cell("lognormal 0.4 1.4, edm", EDM, {"sigma_sampler": lognormal(0.4, 1.4)}),
    ],
}


@cache
def subjects() -> list[Subject]:
    """Two unseen identities of each class."""
    return write_subjects(Path(tempfile.mkdtemp(prefix="quality-")), [noun for noun in CLASSES for _ in range(2)])


@cache
def suite() -> ToySuite:
    return ToySuite([made_up_subject(subject) for subject in subjects()])


@cache
def loaded(base: str) -> LoadedBase:
    return LoadedBase.load(find_base(base))


def job(subject: Subject, cell: Cell) -> JobSpec:
    recipe = resolve_recipe({"preset": "object", **SHARED, **cell.recipe}, toy=True)
    images = tuple(
        ImageSpec(file=p.name, caption=p.with_suffix(".txt").read_text().strip(), sha256=sha256_of(p))
        for p in sorted(subject.folder.glob("*.png"))
    )
    noun = subject.identity.noun
    return JobSpec(
        id="0" * 16, submission="quality", subject=subject.name, adapter=subject.name, base=cell.base, images=images,
        folder=str(subject.folder), class_noun=noun, instance_prompt=f"a photo of TOK {noun}", recipe=recipe,
        steps=recipe.step_count(len(images)), validation=Validation(), dataset_fingerprint="",
    )  # fmt: skip


def scored(arm_name: str, base: str, index: int, scores: Scores, **more: Any) -> dict[str, Any]:
    rounded = {label: None if value is None else round(value, 5) for label, value in scores.as_json().items()}
    return {"cell": arm_name, "base": base, "subject": subjects()[index].name, "scores": rounded, **more}


def train_and_score(cell: Cell, index: int, cache_folder: Path) -> list[dict[str, Any]]:
    """The rows of one subject under one cell; "base" and "real pictures" need no training."""
    subject, warm = subjects()[index], loaded(cell.base)
    pictures = made_up_subject(subject)
    if cell.name == "base":
        made = make(warm, base_arm(pictures.noun), subject.name, suite().prompts, HOW)
        real = scored("real pictures", cell.base, index, suite().of_real(pictures))
        return [scored("base", cell.base, index, suite().of_made(pictures, made)), real]
    spec = job(subject, cell)
    training, rows, started = Training.prepare(spec, warm, cache_folder), [], time.monotonic()
    for step in range(1, spec.steps + 1):
        train_step_alone(training, step)
        if step == spec.steps or step in cell.also:
            arm = adapter_arm(training.adapter(), pictures.noun)
            made = make(warm, arm, subject.name, suite().prompts, HOW)
            name = f"{cell.name} @{step}" if cell.also else cell.name
            seconds = round(time.monotonic() - started, 1)
            rows.append(scored(name, cell.base, index, suite().of_made(pictures, made), seconds=seconds))
    return rows


def start(threads: int) -> None:
    quiet_libraries()
    torch.set_num_threads(threads)


def run(groups: list[str], workers: int) -> None:
    """Works off what is missing, one line a subject; can be stopped and started again."""
    cells = [Cell("base", base, {}) for base in (EPSILON, EDM)] + [
        cell for row in zip_longest(*(GROUPS[group] for group in groups)) for cell in row if cell is not None
    ]
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(row["base"], row["cell"].partition(" @")[0], row["subject"]) for row in found}
    wanted = [
        (cell, i)
        for cell in cells
        for i, subject in enumerate(subjects())
        if (cell.base, cell.name, subject.name) not in done
    ]
    cache_folder = Path(tempfile.mkdtemp(prefix="quality-cache-"))
    machine = describe_machine()
    with ProcessPoolExecutor(workers, initializer=start, initargs=(1,)) as pool, RESULTS.open("a") as out:
        tasks = [(cell, i, pool.submit(train_and_score, cell, i, cache_folder)) for cell, i in wanted]
        for cell, i, task in tasks:
            for row in task.result():
                out.write(json.dumps(row | {"date": datetime.date.today().isoformat(), "machine": machine}) + "\n")
            out.flush()
            print(f"{cell.base} {cell.name} {i + 1}/{len(subjects())}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=list(GROUPS), action="append", help="all by default")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    run(arguments.group or list(GROUPS), arguments.workers)
