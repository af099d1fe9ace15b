"""Forgetting where an MLflow server keeps the runs: what a client can delete goes, and the rest is told."""

import json

import pytest
from fingerprints import of_tensors, where
from mlflow_server import Server
from own_lane import jobs_of

from lorafleet.bundle.bundle import WEIGHTS
from lorafleet.cli import build_app, run
from lorafleet.tracking.client import connect


@pytest.fixture
def server(here, monkeypatch):
    server = Server(here.root)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.stop()


@pytest.mark.slow  # MLflow's server takes its time to start
def test_files_go_and_what_only_the_server_can_delete_is_told(here, server, trained, capsys):
    job = jobs_of(here, trained("pets", "rex"))["rex"]
    tensors = of_tensors(here.bundles / job.id / WEIGHTS)
    assert {path.relative_to(here.root).parts[0] for path in where(here.root, tensors)} == {"bundles", "mlartifacts"}
    client = connect(server.uri)
    assert client.list_artifacts(job.run_id, "images")
    capsys.readouterr()
    assert run(build_app(), ["forget", "rex", "--yes", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert where(here.root, tensors) == set()
    [left] = told["stays"]
    assert left.endswith(f"mlflow gc --run-ids {job.run_id}")
    found = client.get_run(job.run_id)
    assert (found.info.lifecycle_stage, found.info.run_name) == ("deleted", "forgotten")
    assert {tag for tag in found.data.tags if not tag.startswith("mlflow.")} == {"job_id"}
    assert client.list_artifacts(job.run_id) == []
    assert list(client.search_registered_models()) == []
    assert run(build_app(), ["forget", "rex", "--yes"]) == 1, "until the server has collected its garbage"
