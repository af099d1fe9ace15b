"""Homes with small submissions that were really trained, published, reported and cached."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from own_lane import lane, seed_of
from PIL import Image
from subject_folders import photo

from lorafleet.home import Home
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import load_submission, open_store, store_url
from lorafleet_jobs.submission.finish import conclude
from lorafleet_jobs.submission.mlflow_runs import close_runs
from lorafleet_jobs.submission.submit import record

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def here(tmp_path, with_mlflow, monkeypatch):
    """A home of this test's own, which commands find too."""
    home = Home(with_mlflow(tmp_path / "home"))
    monkeypatch.setenv("LORAFLEET_HOME", str(home.root))
    return home


@pytest.fixture
def photos(tmp_path):
    """photos("rex"): a folder of four photographs, each with a caption of its own."""

    def make(subject):
        folder = tmp_path / "photographs" / f"of-{subject}"
        if not folder.exists():
            folder.mkdir(parents=True)
            for n in range(4):
                noisy(seed_of(subject) + n).save(folder / f"{n}.png")
                (folder / f"{n}.txt").write_text(f"a photo of TOK, {subject}'s secret number {n}")
        return folder

    return make


def noisy(seed):
    """A picture that no other one looks like, whose file nothing else shares bytes with."""
    return Image.blend(photo(seed, 64, 64), Image.effect_noise((64, 64), 80).convert("RGB"), 0.2)


@pytest.fixture
def planned(tmp_path, photos, here):
    """planned("pets", "rex", "mia"): the plan of a manifest of these subjects."""

    def make(name, *subjects, forgotten=frozenset()):
        manifest = {
            "apiVersion": "lorafleet/v1alpha1", "name": name, "base": "toy-playground",
            "recipe": {"rank": 2, "steps": 2, "seed": seed_of(name), "batch_size": 1},
            "validation": {"steps": 1},
            "subjects": [{"name": one, "images": str(photos(one)), "class": "mug"} for one in subjects],
        }  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(manifest))
        return prepare(path, forgotten=forgotten)

    return make


@pytest.fixture
def trained(here, planned):
    """trained("pets", "rex"): the id of a submission that a lane has trained and a driver has concluded."""

    def make(name, *subjects):
        prepared = planned(name, *subjects)
        record(prepared, here)
        return finish(here, prepared.plan.submission)

    return make


def finish(home, submission):
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    lane(home, tracking, JobQueue(store_url(home), submission))
    close_runs(open_store(home), tracking, submission)
    conclude(home, load_submission(home, submission), tracking)
    return submission
