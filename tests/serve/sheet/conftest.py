"""A home in which a submission has left adapters, their photos and their runs, as a reviewer finds it."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import read_bundle, write_bundle
from lorafleet.cli import new_app, run
from lorafleet.config import Recipe
from lorafleet.tracking import JobInfo, MlflowTracking
from lorafleet_serve.commands import register

sys.path.append(str(Path(__file__).parent))

PROMPTS = ["a photo of TOK {class} on the beach", "TOK {class} at night"]


@dataclass
class Reviewed:
    """The home, and how more is put into it."""

    home: Path
    tracking: MlflowTracking
    tools: dict
    parents: dict[str, str] = field(default_factory=dict)

    def submit(self, name, id_, prompts=PROMPTS, seed=3):
        manifest = {"name": name, "validation": {"prompts": prompts, "seed": seed, "steps": 2}}
        self.parents[name] = self.tracking.start_submission(name, id_, {}, yaml.safe_dump(manifest))
        return self.parents[name]

    def train(self, parent, name, rank, number, tokens=1):
        """What a job of that submission leaves: a bundle of random weights, a run, a version."""
        base, job_id = find_base("toy-playground"), f"{number:016x}"
        photos = self.home / "photos" / name
        photos.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (200, 40, 40)).save(photos / "b.png")
        (photos / "a.png").write_text("no picture")
        Image.new("RGB", (40, 30), "white").save(photos / "a-mask.png")
        made = self.tools["make_bundle"](self.home / "made", base, name, rank=rank, tokens=tokens)
        files = {file: (made.path / file).read_bytes() for file in made.card.sha256}
        card = made.card.with_changes(job_id=job_id, recipe=Recipe(rank=rank).model_dump(mode="json"), steps=10 * rank)
        bundle = write_bundle(self.home / "bundles" / job_id, card, files)
        info = JobInfo(
            name=name, job_id=job_id, subject=name, adapter=name, params={"rank": str(rank)},
            recipe_yaml=f"rank: {rank}\n", folder=str(photos), images=1, dataset_fingerprint="f" * 64,
        )  # fmt: skip
        run_id = self.tracking.start_job(parent, info)
        self.tracking.log_bundle(run_id, bundle.path)
        return self.tracking.register(read_bundle(bundle.path), run_id)


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory, with_mlflow, tools):
    """Submission `pets`: rex at two ranks, and tom; `others`: ann, without learned tokens."""
    home = with_mlflow(tmp_path_factory.mktemp("reviewed"))
    made = Reviewed(home, MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts"), tools)
    pets = made.submit("pets", "pets-0123456789ab")
    made.train(pets, "rex", 2, 1)
    made.train(pets, "rex", 4, 2)
    made.train(pets, "tom", 2, 3)
    made.train(made.submit("others", "others-ba9876543210"), "ann", 2, 4, tokens=0)
    return made


@pytest.fixture
def lorafleet(reviewed, tmp_path, monkeypatch):
    """lorafleet("sheet", "pets") runs a command in that home, in a folder of its own; returns its exit code."""
    monkeypatch.setenv("LORAFLEET_HOME", str(reviewed.home))
    monkeypatch.chdir(tmp_path)
    app = new_app()
    register(app)
    return lambda *arguments: run(app, [str(argument) for argument in arguments])
