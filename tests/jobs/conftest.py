"""Databases for the job rows, and a home with MLflow for lanes without a cluster.

SQLite always, PostgreSQL where the distribution's packages have put it. Plain functions that tests share are in
modules beside this one (`job_rows`, `own_lane`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lorafleet.home import Home
from lorafleet.util.addresses import sqlite_url

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "jobs.db")
    return request.getfixturevalue("empty_postgres")


@pytest.fixture(scope="module")
def home(tmp_path_factory, with_mlflow):
    """One for all tests of a module."""
    return Home(with_mlflow(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def tracking(home):
    """The MLflow of that home."""
    from lorafleet.tracking import MlflowTracking

    return MlflowTracking(home.tracking_uri, home.artifacts)


@pytest.fixture
def recorded(tmp_path):
    """Records a submission of the subjects named under a home and returns its id; pictures lie under tmp_path."""
    import yaml
    from own_lane import seed_of
    from PIL import Image

    from lorafleet_jobs.intake.prepare import prepare
    from lorafleet_jobs.submission.submit import record

    def make(home, name, *subjects, steps=4, **resources):
        for number, subject in enumerate(subjects):
            (tmp_path / subject).mkdir(exist_ok=True)
            for index in range(4):
                colour = (60 * index + 30, 90 * number + 20, len(name) * 9)
                Image.new("RGB", (48, 40), colour).save(tmp_path / subject / f"{index}.png")
        manifest = {
            "apiVersion": "lorafleet/v1alpha1", "name": name, "base": "toy-playground",
            "recipe": {"rank": 2, "steps": steps, "seed": seed_of(name)}, "validation": {"steps": 1},
            "resources": resources, "promotion": "always",  # so few steps change nothing, and are champion all the same
            "subjects": [{"name": subject, "images": subject, "class": "mug"} for subject in subjects],
        }  # fmt: skip
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest))
        prepared = prepare(tmp_path / "manifest.yaml")
        record(prepared, home)
        return prepared.plan.submission

    return make
