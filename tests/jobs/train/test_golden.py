"""Ten losses of every technique, as they were when it was last looked at: whatever changes them, changes on purpose.

Rewritten by `python tests/jobs/train/test_golden.py`, to be read with the change that moved them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from lorafleet.bases import Base, find_base
from lorafleet.bundle.bundle import sha256_of
from lorafleet.config import Recipe, Validation
from lorafleet.loaded import LoadedBase
from lorafleet.toy.render import render
from lorafleet.toy.world import random_scene, unseen_identity
from lorafleet_jobs.jobspec import ClassImages, ImageSpec, JobSpec, MaskSpec
from lorafleet_jobs.train.pack import train_step_alone
from lorafleet_jobs.train.training import Training

FILE = Path(__file__).parent / "golden" / "losses.json"
ADAMW = {"optimizer": "adamw", "learning_rate": 3e-3}
TECHNIQUES: dict[str, dict[str, object]] = {
    "lora": {"pivotal": None},
    "pivotal": {},
    "textual inversion": {"unet_fraction": 0, "pivotal": {"fraction": 1}},
    "two abstractions with words": {
        "pivotal": {"abstractions": ["TOK", "TOK2"], "init": {"TOK": "red", "TOK2": "dog"}}
    },
    "dora": {"dora": True, "rank": 2},
    "text encoders": {"text_encoder_lora": {"rank": 2}, "pivotal": None},
    "all-linear, rslora": {"targets": "all-linear", "rslora": True, "alpha": 4.0},
    "dropout": {"dropout": 0.3},
    "min-snr": {"min_snr_gamma": 5.0},
    "debiased": {"weighting": "debiased"},
    "lognormal": {"sigma_sampler": {"name": "lognormal", "P_mean": -0.4, "P_std": 1.0}},
    "noise offset": {"noise_offset": 0.1},
    "input perturbation": {"input_perturbation": 0.1},
    "prodigy": {"optimizer": "prodigy", "learning_rate": None},
    "lion": {"optimizer": "lion", "learning_rate": 1e-3},
    "adafactor": {"optimizer": "adafactor", "learning_rate": 1e-2},
    "cosine, accumulated": {"lr_scheduler": "cosine", "warmup_steps": 2, "gradient_accumulation": 2},
    "buckets": {"buckets": True, "flip": True},
    "random crop, repeats": {"crop": "random", "repeats": 2},
    "masked": {"masked_loss": 0.1},
    "captions": {"caption": {"prefix": "TOK", "shuffle": True, "dropout": 0.3}},
    "prior images": {"prior": {"mode": "images", "images": "class"}},
    "prior generated": {"prior": {"mode": "generate", "count": 2}},
    "prior predicted": {"prior": {"mode": "predict", "weight": 0.5}},
    "checkpointed": {"gradient_checkpointing": True},
}
ONLY_EDM = {
    "edm unit weight": {"weighting": "none"},
    "edm grid": {"sigma_sampler": "uniform-grid"},
}
ONLY_EPSILON = {
    "as a denoiser": {"objective": "edm", "sigma_sampler": "lognormal"},
    "as a denoiser, unit weight": {"objective": "edm", "weighting": "none"},
}
BASES = {
    "toy-playground": TECHNIQUES | ONLY_EDM,
    "toy-sdxl": TECHNIQUES | ONLY_EPSILON,
    "toy-v": {name: TECHNIQUES[name] for name in ("lora", "min-snr", "debiased")},
}


def v_base(folder: Path) -> Base:
    """toy-sdxl's weights under a scheduler that says they predict v: wrong as a model, right as arithmetic."""
    source = find_base("toy-sdxl").path
    for part in source.iterdir():
        if part.name != "scheduler":
            (folder / part.name).symlink_to(part)
    (folder / "scheduler").mkdir()
    config = json.loads((source / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(config | {"prediction_type": "v_prediction"})
    )
    return find_base(str(folder))


def write_photos(folder: Path) -> None:
    """Three photos of different shapes with captions in parts and one mask, and two class images beside them."""
    rng = random.Random(3)
    for i, size in enumerate(((48, 48), (64, 40), (40, 56))):
        render(random_scene(unseen_identity(0, "dog"), rng), 64).resize(size).save(folder / f"{i}.png")
    mask = Image.new("L", (48, 48), 0)
    mask.paste(255, (8, 8, 40, 40))
    mask.save(folder / "0-mask.png")
    (folder / "class").mkdir()
    for i in range(2):
        render(random_scene(unseen_identity(i + 1, "dog"), rng), 32).save(folder / "class" / f"{i}.png")


def spec_of(folder: Path, base: str, recipe: dict[str, object]) -> JobSpec:
    images = [
        ImageSpec(file=f"{i}.png", caption=caption, sha256=sha256_of(folder / f"{i}.png"))
        for i, caption in enumerate(("a photo of TOK dog", "TOK dog, on the grass, big", None))
    ]
    images[0] = images[0].with_changes(mask=MaskSpec(file="0-mask.png", sha256=sha256_of(folder / "0-mask.png")))
    others = tuple(
        ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(folder / "class" / f"{i}.png")) for i in range(2)
    )
    return JobSpec(
        id="0" * 16, submission="golden", subject="rex", adapter="rex", base=base, folder=str(folder),
        images=tuple(images), class_noun="dog", instance_prompt="a photo of TOK dog",
        recipe=Recipe(**{"rank": 4, "batch_size": 2} | ADAMW | recipe), steps=10, validation=Validation(),
        dataset_fingerprint="", class_images=ClassImages(folder=str(folder / "class"), images=others),
    )  # fmt: skip


def losses(loaded: LoadedBase, folder: Path, recipe: dict[str, object]) -> list[float]:
    training = Training.prepare(spec_of(folder, loaded.base.name, recipe), loaded)
    return [train_step_alone(training, step) for step in range(1, 11)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("photos")
    write_photos(made)
    return made


@pytest.fixture(scope="module", params=BASES)
def named_base(request, tmp_path_factory):
    name = request.param
    base = v_base(tmp_path_factory.mktemp("v")) if name == "toy-v" else find_base(name)
    return name, LoadedBase.load(base)


@pytest.mark.parametrize("technique", sorted({name for techniques in BASES.values() for name in techniques}))
def test_ten_losses_are_what_they_were(named_base, folder, technique):
    name, loaded = named_base
    if technique not in BASES[name]:
        pytest.skip(f"{name} has no {technique}")
    golden = json.loads(FILE.read_text())[name][technique]
    # other processors add in other orders; ten steps keep that below a thousandth
    assert losses(loaded, folder, BASES[name][technique]) == pytest.approx(golden, rel=1e-3, abs=1e-5)


def test_every_technique_leaves_a_trace_of_its_own():
    """No two techniques of a base have the same losses, or one of them does nothing."""
    golden = json.loads(FILE.read_text())
    for name, traces in golden.items():
        seen: dict[tuple[float, ...], str] = {}
        for technique, trace in traces.items():
            other = seen.setdefault(tuple(round(loss, 6) for loss in trace), technique)
            same = {technique, other} <= {"pivotal", "checkpointed"}
            assert other == technique or same, f"{name}: {technique} is {other}"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as photos, tempfile.TemporaryDirectory() as weights:
        write_photos(Path(photos))
        found = {}
        for base_name, techniques in BASES.items():
            loaded_base = LoadedBase.load(v_base(Path(weights)) if base_name == "toy-v" else find_base(base_name))
            found[base_name] = {
                technique: [round(loss, 7) for loss in losses(loaded_base, Path(photos), recipe)]
                for technique, recipe in techniques.items()
            }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, indent=1) + "\n")
