"""MLflow as it really is: one SQLite store for the module, and one real server that is down before it is up."""

import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from lorafleet.bundle import WEIGHTS, AdapterCard, Bundle, Trigger, write_bundle
from lorafleet.config import Recipe
from lorafleet.errors import BundleError, NotFoundError, UnreachableError
from lorafleet.tracking import JobInfo, MlflowRegistry, MlflowTracking


@pytest.fixture(scope="module")
def home(tmp_path_factory, with_mlflow):
    return with_mlflow(tmp_path_factory.mktemp("tracking home"))


@pytest.fixture(scope="module")
def tracking(home):
    return MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")


@pytest.fixture(scope="module")
def parent(tracking):
    return tracking.start_submission("pets", "0123456789abcdef", {"lanes": "2"}, "name: pets\n")


def job(subject="rex", **changes):
    values = {
        "name": f"{subject} r4", "job_id": "a" * 16, "subject": subject, "adapter": subject, "base": "toy-playground",
        "steps": 12, "recipe": Recipe(rank=4), "folder": "/photos/rex", "images": 5, "dataset_fingerprint": "f" * 64,
    }  # fmt: skip
    return JobInfo(**{**values, **changes})


def bundle_at(path: Path, name="rex", job_id="a" * 16) -> Bundle:
    card = AdapterCard(
        name=name, base="toy-playground", base_fingerprint="0" * 16, prediction="edm", rank=4, alpha=4,
        targets=("to_q",), triggers=(Trigger(trigger=f"<{name}>", abstraction="TOK", tokens=(0, 1)),),
        class_noun="dog", instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="f", images=5,
        steps=12, licence="apache-2.0", job_id=job_id, lorafleet_version="0.1.0",
    )  # fmt: skip
    return write_bundle(path, card, {WEIGHTS: save({"unet.a.lora_A.weight": torch.ones(4, 8)})})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_child_runs_are_nested_and_say_what_they_train(tracking, parent, home):
    child = tracking.start_job(parent, job())
    run = tracking.client.get_run(child)
    experiment = tracking.client.get_experiment_by_name("pets")
    nested = tracking.client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert child in [one.info.run_id for one in nested]
    assert run.info.status == "SCHEDULED"
    assert run.data.params["rank"] == "4"
    assert run.data.params["pivotal.tokens"] == "2"
    assert run.data.params["alpha"] == "none"
    assert run.data.params["steps"] == "12"
    assert run.inputs.dataset_inputs[0].dataset.digest == "f" * 36
    assert str(home / "artifacts").replace(" ", "%20") in run.info.artifact_uri
    assert tracking.client.get_run(parent).data.params["lanes"] == "2"
    assert [file.path for file in tracking.client.list_artifacts(parent)] == ["manifest.yaml"]


def test_a_run_goes_from_scheduled_to_running_to_failed(tracking, parent):
    child = tracking.start_job(parent, job())
    tracking.resume(child, attempt=2)
    run = tracking.client.get_run(child)
    assert (run.info.status, run.data.tags["attempt"]) == ("RUNNING", "2")
    tracking.finish(child, "FAILED", "DataError: the image is gone")
    run = tracking.client.get_run(child)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "DataError: the image is gone")


def test_one_step_is_one_batch_and_pictures_keep_key_and_step(tracking, parent, monkeypatch):
    child = tracking.start_job(parent, job())
    calls = []
    real = tracking.client.log_batch
    monkeypatch.setattr(tracking.client, "log_batch", lambda *a, **k: (calls.append(k), real(*a, **k)))
    tracker = tracking.job_tracker(child)
    for step in range(3):
        tracker.metrics(step, {"train/loss": 1.0 / (step + 1), "train/lr": 1e-4})
    tracker.image("val/p00", 2, Image.new("RGB", (8, 8), "red"))
    assert [len(call["metrics"]) for call in calls] == [2, 2, 2]
    history = tracking.client.get_metric_history(child, "train/loss")
    assert [(one.step, one.value) for one in history] == [(0, 1.0), (1, 0.5), (2, 1.0 / 3)]
    pictures = [file.path for file in tracking.client.list_artifacts(child, "images")]
    assert any(path.startswith("images/val~p00") and "step" in path and path.endswith(".png") for path in pictures)


def test_a_number_that_mlflow_refuses_is_left_out_and_the_others_arrive(tracking, parent, caplog):
    child = tracking.start_job(parent, job())
    tracker = tracking.job_tracker(child)
    with caplog.at_level(logging.WARNING):
        tracker.metrics(0, {"bad\nkey!": 1.0})
        tracker.metrics(1, {"train/loss": 0.5})
    assert tracker.waiting == 0
    assert "left out" in caplog.text
    assert tracking.client.get_run(child).data.metrics == {"train/loss": 0.5}


def test_a_job_is_registered_once_and_becomes_champion(tracking, parent, home):
    child = tracking.start_job(parent, job())
    bundle = bundle_at(home / "bundles" / ("a" * 16))
    tracking.log_bundle(child, bundle.path)
    assert tracking.registered("rex", "a" * 16) is None
    first = tracking.register(bundle, child)
    again = tracking.register(bundle, child)
    assert first == again == tracking.registered("rex", "a" * 16)
    assert (first.version, first.aliases, first.triggers) == (1, ("champion",), ("<rex>",))
    second = tracking.register(bundle_at(home / "bundles" / ("b" * 16), job_id="b" * 16), child)
    assert (second.version, second.aliases) == (2, ("champion",))
    listed = MlflowRegistry(tracking.uri, home / "cache").list()
    assert [(one.name, one.version, one.aliases) for one in listed] == [("rex", 2, ("champion",)), ("rex", 1, ())]


def test_an_interrupted_registration_is_completed(tracking, parent, home):
    child = tracking.start_job(parent, job("cut"))
    bundle = bundle_at(home / "bundles" / "cut", "cut", "c" * 16)
    tracking.log_bundle(child, bundle.path)
    tags = {"job_id": "c" * 16, "base": "toy-playground", "path": str(bundle.path)}
    tracking.client.create_registered_model("cut")
    tracking.client.create_model_version("cut", f"runs:/{child}/adapter", run_id=child, tags=tags)
    assert tracking.registered("cut", "c" * 16) is None
    assert tracking.register(bundle, child).aliases == ("champion",)
    assert len(tracking.client.search_model_versions("name = 'cut'")) == 1


def test_registering_again_leaves_a_champion_that_was_chosen_by_hand(tracking, parent, home):
    child = tracking.start_job(parent, job("tom"))
    bundles = [bundle_at(home / "bundles" / f"tom{n}", "tom", str(n) * 16) for n in (1, 2)]
    for bundle in bundles:
        tracking.register(bundle, child)
    tracking.client.set_registered_model_alias("tom", "champion", "1")
    assert tracking.register(bundles[1], child).aliases == ()


def test_resolve_finds_numbers_and_aliases_and_says_what_there_is(tracking, parent, home):
    child = tracking.start_job(parent, job("mia"))
    bundle = bundle_at(home / "bundles" / "mia", "mia", "d" * 16)
    tracking.log_bundle(child, bundle.path)
    tracking.register(bundle, child)
    registry = MlflowRegistry(tracking.uri, home / "cache")
    assert registry.resolve("mia") == registry.resolve("mia", "1") == registry.resolve("mia", "champion")
    with pytest.raises(NotFoundError, match="versions: 1; aliases: champion"):
        registry.resolve("mia", "7")
    with pytest.raises(NotFoundError, match="versions: 1; aliases: champion"):
        registry.resolve("mia", "best")
    with pytest.raises(NotFoundError, match=r"no adapter 'mai'; there are: .*mia"):
        registry.resolve("mai")


def test_a_damaged_artifact_is_passed_over_for_an_intact_copy_and_refused_without_one(tracking, parent, home):
    child = tracking.start_job(parent, job("bad"))
    bundle = bundle_at(home / "bundles" / "bad", "bad", "e" * 16)
    tracking.log_bundle(child, bundle.path)
    version = tracking.register(bundle, child)
    registry = MlflowRegistry(tracking.uri, home / "cache")
    stored = registry.resolve("bad").path
    assert stored != version.path, "the run's artifact is the copy that training again does not touch"
    weights = stored / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="do not match the sha256"):
        registry.resolve("bad")
    assert not (home / "cache" / "bad" / "1").exists()


def test_a_home_without_adapters_is_empty_and_stays_untouched(tmp_path):
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", tmp_path / "cache")
    assert registry.list() == []
    with pytest.raises(NotFoundError, match="submit a manifest"):
        registry.resolve("rex")
    assert not (tmp_path / "new" / "mlflow.db").exists()


def test_a_dead_server_is_named_within_seconds(tmp_path):
    uri = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1.*MLFLOW_TRACKING_URI"):
        MlflowRegistry(uri, tmp_path).list()
    with pytest.raises(UnreachableError):
        MlflowTracking(uri, tmp_path).start_submission("pets", "0" * 16, {}, "")
    assert time.monotonic() - started < 5


@pytest.fixture
def server_at(home, tracking):
    """Starts MLflow's own server over the module's database when called, stops it at the end."""
    started = []

    def start(port):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
                   "--workers", "1", "--backend-store-uri", tracking.uri]  # fmt: skip
        log = (home / "server.log").open("wb")
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, start_new_session=True, env={**os.environ})
        started.append(server)
        for _ in range(240):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert server.poll() is None, (home / "server.log").read_text()
                time.sleep(0.25)
            else:
                return
        pytest.fail("the MLflow server did not come up")

    yield start
    for server in started:
        os.killpg(server.pid, 15)
        server.wait(20)


def test_what_an_outage_kept_back_arrives_later_and_bundles_come_over_http(tracking, home, server_at):
    port = free_port()
    remote = MlflowTracking(f"http://127.0.0.1:{port}", home / "unused")
    experiment = tracking.client.create_experiment("remote", artifact_location="mlflow-artifacts:/remote")
    run_id = tracking.client.create_run(experiment).info.run_id
    tracker = remote.job_tracker(run_id)
    for step in range(3):
        tracker.metrics(step, {"train/loss": float(step)})
    tracker.image("val/p00", 2, Image.new("RGB", (8, 8)))
    assert tracker.waiting == 4, "training went on, everything waits"
    with pytest.raises(UnreachableError):
        remote.finish(run_id, "FINISHED")
    server_at(port)
    bundle = bundle_at(home / "elsewhere", "far", "9" * 16)
    remote.log_bundle(run_id, bundle.path)
    remote.register(bundle, run_id)
    remote.finish(run_id, "FINISHED")
    assert tracker.waiting == 0
    assert [one.step for one in tracking.client.get_metric_history(run_id, "train/loss")] == [0, 1, 2]
    assert tracking.client.get_run(run_id).info.status == "FINISHED"
    bundle.path.rename(home / "out of sight")
    registry = MlflowRegistry(remote.uri, home / "cache")
    assert registry.resolve("far").path == home / "cache" / "far" / "1"
    assert {one.name: one.path for one in registry.list()}["far"] == home / "cache" / "far" / "1"
    assert registry.resolve("far", "1").path.is_dir(), "the second time from the cache"
