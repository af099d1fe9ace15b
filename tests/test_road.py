"""The whole road with nothing stubbed: manifest, Ray Train lanes, MLflow registry, Ray Serve, pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from PIL import Image

from lorafleet.errors import RequestError
from lorafleet.toy.run_demo import server
from lorafleet.toy.subjects import write_manifest, write_subjects
from lorafleet.util.http_client import Client


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A home with two subjects trained, and what `submit --json` said."""
    folder = tmp_path_factory.mktemp("road")
    subjects = write_subjects(folder / "photos", ("mug", "dog"), pictures=4)
    write_manifest(folder / "pets.yaml", "pets", "toy-playground", subjects, lanes=1, preset="fast", steps=6)
    environment = os.environ | {"LORAFLEET_HOME": str(folder / "home")}
    os.environ["LORAFLEET_HOME"] = environment["LORAFLEET_HOME"]
    yield folder, subjects, lorafleet("submit", folder / "pets.yaml", "--yes", "--json")
    del os.environ["LORAFLEET_HOME"]


def lorafleet(*arguments):
    done = subprocess.run([sys.executable, "-m", "lorafleet", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_job_succeeds_and_is_registered(road):
    _, subjects, submitted = road
    assert submitted["state"] == "succeeded"
    assert [(job["subject"], job["state"], job["version"], job["step"]) for job in submitted["jobs"]] == [
        (subject.name, "succeeded", 1, 6) for subject in subjects
    ]
    assert lorafleet("status", "--json")["jobs"] == submitted["jobs"]
    adapters = lorafleet("adapters", "ls", "--json")["adapters"]
    assert {(a["name"], tuple(a["aliases"]), tuple(a["triggers"])) for a in adapters} == {
        (s.name, ("champion",), (f"<{s.name}>",)) for s in subjects
    }


def test_mlflow_holds_parent_children_curves_pictures_and_bundles(road):
    folder, subjects, _ = road
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'home' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pets")
    runs = client.search_runs([experiment.experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert (len(runs), len(children)) == (3, len(subjects))
    for run in children:
        assert run.info.status == "FINISHED"
        assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(1, 7))
        assert {"train/d", "perf/steps_per_second", "perf/peak_memory_mib"} <= run.data.metrics.keys()
        assert run.data.params["rank"] == "4"
        shown = {one.path.rpartition("/")[2] for one in client.list_artifacts(run.info.run_id, "images")}
        assert any("adapter" in name for name in shown), shown
        assert any("training photos" in name for name in shown), shown
        bundle = {one.path for one in client.list_artifacts(run.info.run_id, "adapter")}
        assert {"adapter/adapter.json", "adapter/README.md", "adapter/preview.png"} <= bundle


def test_generate_and_the_server_make_the_same_picture_and_different_subjects_differ(road):
    folder, subjects, _ = road
    prompts = [f"a photo of <{subject.name}> {subject.identity.noun} at night" for subject in subjects]
    out = folder / "generated.png"
    command = ["generate", prompts[0], "--adapter", subjects[0].name, "--seed", "5", "--out", out, "--json"]
    assert lorafleet(*command)["seed"] == 5
    with server("toy-playground", 0) as client:
        served = [client.generate(p, s.name, seed=5) for p, s in zip(prompts, subjects, strict=True)]
        alone = client.generate("a photo of a mug at night", seed=5)
        with pytest.raises(RequestError, match=r"404.*nobody"):
            Client(client.address).generate("a photo of TOK", "nobody")
    one = np.asarray(Image.open(out)).astype(int)
    assert np.abs(one - np.asarray(served[0]).astype(int)).max() <= 2
    assert not np.array_equal(np.asarray(served[0]), np.asarray(served[1]))
    assert not np.array_equal(np.asarray(served[0]), np.asarray(alone))
