"""Runs in MLflow as it really is: opened once, told every number in batches, and closed as their jobs ended."""

import io
import json
import logging
import math
import socket
from dataclasses import asdict

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from tracked_jobs import job

from lorafleet.bundle.ports import Caption, RunEnd, RunEntry
from lorafleet.errors import NotFoundError, UnreachableError
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet.util.machine import this_user


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
    assert run.data.params == {"base": "toy-playground", "rank": "4", "steps": "12"}, "what somebody chose"
    with open(tracking.client.download_artifacts(child, "recipe.yaml")) as recipe:
        assert recipe.read() == "rank: 4\nalpha: 4\n"
    assert run.data.tags["mlflow.user"] == this_user()
    assert run.inputs.dataset_inputs[0].dataset.digest == "f" * 36
    assert str(home / "artifacts").replace(" ", "%20") in run.info.artifact_uri
    assert tracking.client.get_run(parent).data.params["lanes"] == "2"
    assert [file.path for file in tracking.client.list_artifacts(parent)] == ["manifest.yaml"]


def test_a_run_goes_from_scheduled_to_running_to_failed(tracking, parent):
    child = tracking.start_job(parent, job())
    tracking.send(child, [RunEntry("attempt", "", 2)])
    run = tracking.client.get_run(child)
    assert (run.info.status, run.data.tags["attempt"]) == ("RUNNING", "2")
    tracking.finish(child, RunEnd("FAILED", "DataError: the image is gone", {"why": "bad day"}))
    run = tracking.client.get_run(child)
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "DataError: the image is gone")
    assert run.data.tags["why"] == "bad day"


def counted(monkeypatch, client):
    """The sizes of the batches of metrics that go out from now on."""
    sizes = []
    real = client.log_batch

    def log_batch(run_id, metrics=(), **rest):
        sizes.append(len(metrics))
        return real(run_id, metrics, **rest)

    monkeypatch.setattr(client, "log_batch", log_batch)
    return sizes


def metric(key, step, value, milliseconds=1_000):
    return RunEntry("metric", key, step, repr(value), milliseconds=milliseconds)


def picture(key, step, image, milliseconds=1_000, caption=None):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    said = "" if caption is None else json.dumps(asdict(caption))
    return RunEntry("picture", key, step, said, stream.getvalue(), milliseconds)


def test_steps_share_a_batch_and_pictures_keep_key_and_step(tracking, parent, monkeypatch):
    child = tracking.start_job(parent, job())
    sizes = counted(monkeypatch, tracking.client)
    image = Image.effect_noise((300, 200), 80).convert("RGB")
    numbers = [metric("train/loss", step, 1.0 / (step + 1), 1_000 + step) for step in range(50)]
    numbers += [metric("train/lr", step, 1e-4, 1_000 + step) for step in range(50)]
    tracking.send(child, [*numbers, picture("val/p00", 2, image)])
    assert sizes == [100]
    history = tracking.client.get_metric_history(child, "train/loss")
    points = [(point.step, point.value, point.timestamp) for point in history]
    assert points == [(step, 1.0 / (step + 1), 1_000 + step) for step in range(50)]
    full, small = sorted(file.path for file in tracking.client.list_artifacts(child, "images"))[::-1]
    assert full.startswith("images/val~p00+step+2+timestamp+1000+")
    assert small == full.removesuffix(".png") + "+compressed.webp"
    with Image.open(tracking.client.download_artifacts(child, full)) as kept:
        assert kept.tobytes() == image.tobytes()
    assert tracking.client.get_run(child).data.tags["mlflow.loggedImages"] == "True"


def test_pictures_with_captions_are_rows_of_a_table_as_mlflow_writes_one(tracking, parent):
    """Prompts x runs in MLflow's evaluation view; sent again, or in two calls, each row is there once."""
    child, image = tracking.start_job(parent, job()), Image.effect_noise((16, 16), 80).convert("RGB")
    beach, snow = (f"a photo of TOK dog {where}" for where in ("on the beach", "in the snow"))
    shown = [(beach, "base", 0), (beach, "by step", 4), (snow, "adapter", 8), (beach, "adapter", 8)]
    entries = [
        picture(f"{prompt[15:]}/{kind}", step, image, caption=Caption(prompt[15:], prompt, kind, 3))
        for prompt, kind, step in shown
    ]
    tracking.send(child, [picture("training photos", 0, image), *entries[:2]])
    tracking.send(child, entries[1:])
    table = table_of(tracking, child)
    assert [[row[0], *row[2:]] for row in table["data"]] == [
        ["dog in the snow", snow, "adapter", 8, 3],
        ["dog on the beach", beach, "adapter", 8, 3],
        ["dog on the beach (base)", beach, "base", 0, 3],
        ["dog on the beach (step 4)", beach, "by step", 4, 3],
    ]
    for _, cell, *_ in table["data"]:
        with Image.open(tracking.client.download_artifacts(child, cell["filepath"])) as kept:
            assert kept.tobytes() == image.tobytes()
        with Image.open(tracking.client.download_artifacts(child, cell["compressed_filepath"])) as small:
            assert small.format == "WEBP"
    stock = tracking.start_job(parent, job("stock"))
    row = dict.fromkeys(table["columns"], beach) | {"picture": mlflow.Image(image)}
    tracking.client.log_table(stock, {key: [value] for key, value in row.items()}, "validation.json")
    tags = [tracking.client.get_run(run).data.tags["mlflow.loggedArtifacts"] for run in (child, stock)]
    assert tags[0] == tags[1], "MLflow's pages know of both tables"
    theirs = table_of(tracking, stock)
    assert (theirs.keys(), theirs["columns"]) == (table.keys(), table["columns"])
    assert theirs["data"][0][1].keys() == table["data"][0][1].keys()


def table_of(tracking, run):
    with open(tracking.client.download_artifacts(run, "validation.json")) as file:
        return json.load(file)


def test_numbers_that_are_none_arrive_as_what_they_are(tracking, parent):
    child = tracking.start_job(parent, job())
    values = [float("nan"), float("inf"), -0.0, 1e-300]
    tracking.send(child, [metric("train/loss", step, value) for step, value in enumerate(values)])
    arrived = [point.value for point in tracking.client.get_metric_history(child, "train/loss")]
    assert math.isnan(arrived[0])
    assert arrived[1] > 1e300
    assert arrived[2:] == [0.0, 1e-300]


def test_sending_again_adds_nothing(tracking, parent):
    child = tracking.start_job(parent, job())
    entries = [
        RunEntry("attempt", "", 1),
        *(metric("train/loss", step, 0.5) for step in range(5)),
        picture("val/p00", 3, Image.new("RGB", (16, 16), "red")),
        RunEntry("end", "", 1, json.dumps({"status": "FINISHED", "error": None, "tags": {}})),
    ]
    for _ in range(3):
        tracking.send(child, entries)
    assert [point.step for point in tracking.client.get_metric_history(child, "train/loss")] == [0, 1, 2, 3, 4]
    assert len(tracking.client.list_artifacts(child, "images")) == 2
    assert tracking.client.get_run(child).info.status == "FINISHED"


@pytest.mark.parametrize("arrives", [False, True], ids=["lost", "answer lost"])
def test_a_call_that_failed_half_way_is_made_again_and_leaves_each_step_once(tracking, parent, monkeypatch, arrives):
    """Nobody knows whether it arrived before the connection broke."""
    child, failures, log_batch = tracking.start_job(parent, job()), [], tracking.client.log_batch

    def breaks_once(*arguments, **more):
        if failures or arrives:
            log_batch(*arguments, **more)
        if not failures:
            failures.append(arguments)
            raise MlflowException("the connection broke")

    monkeypatch.setattr(tracking.client, "log_batch", breaks_once)
    entries = [metric("train/loss", step, step / 8) for step in (1, 2, 3)]
    with pytest.raises(UnreachableError, match="the connection broke"):
        tracking.send(child, entries)
    tracking.send(child, entries)
    assert [point.step for point in tracking.client.get_metric_history(child, "train/loss")] == [1, 2, 3]


def test_more_than_mlflow_takes_at_once_arrives_in_batches(tracking, parent, monkeypatch):
    child = tracking.start_job(parent, job(params={"targets": "x" * 7000}))
    assert len(tracking.client.get_run(child).data.params["targets"]) == 6000
    sizes = counted(monkeypatch, tracking.client)
    tracking.send(child, [metric(f"eval/{n}", step, float(n)) for step in range(3) for n in range(900)])
    assert sizes == [1000, 1000, 700]
    assert len(tracking.client.get_run(child).data.metrics) == 900
    assert [point.step for point in tracking.client.get_metric_history(child, "eval/7")] == [0, 1, 2]
    many = tracking.start_submission("many", "e" * 16, {f"key{n}": "v" for n in range(230)}, "")
    assert len(tracking.client.get_run(many).data.params) == 230


def test_a_number_that_mlflow_refuses_is_left_out_and_the_others_arrive(tracking, parent, caplog):
    child = tracking.start_job(parent, job())
    with caplog.at_level(logging.WARNING):
        tracking.send(child, [metric("bad\nkey!" if step % 2 else "train/loss", step, 0.5) for step in range(5)])
    assert caplog.text.count("left out") == 1
    assert [point.step for point in tracking.client.get_metric_history(child, "train/loss")] == [0, 2, 4]


def test_a_run_that_mlflow_does_not_know_is_named(tracking, parent, caplog):
    child, unknown = tracking.start_job(parent, job()), "0" * 32
    with pytest.raises(NotFoundError, match=rf"does not know run {unknown}, .*one MLflow server"):
        tracking.check_run(unknown)
    tracking.check_run(child)
    with caplog.at_level(logging.WARNING):
        tracking.send(unknown, [metric("train/loss", step, 1.0) for step in range(3)])
    assert caplog.text.count("left out") == 1
    with pytest.raises(NotFoundError):
        tracking.log_metrics(unknown, 0, {"eval/a": 1.0})


@pytest.mark.timeout(60)  # MLflow itself would go on trying
def test_a_dead_server_is_named(tmp_path):
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1.*MLFLOW_TRACKING_URI"):
        MlflowRegistry(uri, tmp_path).list()
    with pytest.raises(UnreachableError):
        MlflowTracking(uri, tmp_path).start_submission("pets", "0" * 16, {}, "")
    MlflowTracking(uri, tmp_path).check_run("0" * 32)  # an outage may be over before anything is published


def test_a_run_that_was_opened_for_nobody_is_taken_up_and_that_of_another_home_is_not(tracking, home, tmp_path):
    parent = tracking.start_submission("orphans", "0011223344556677", {"lanes": "2"}, "name: orphans\n")
    child = tracking.start_job(parent, job())
    again = MlflowTracking(tracking.uri, home / "artifacts")  # the rows were never told of either
    assert again.start_submission("orphans", "0011223344556677", {"lanes": "2"}, "name: orphans\n") == parent
    assert again.start_job(parent, job()) == child
    assert again.start_job(parent, job(name="rex r4-seed1")) != child
    again.finish(child, RunEnd("FAILED", "bad day"))
    assert again.start_job(parent, job()) != child
    stranger = MlflowTracking(tracking.uri, tmp_path / "artifacts")
    assert stranger.start_submission("orphans", "0011223344556677", {"lanes": "2"}, "name: orphans\n") != parent


def test_runs_that_nobody_closed_end_as_their_jobs_did(tracking):
    parent = tracking.start_submission("reaped", "1" * 16, {}, "")
    cases = {
        "dead lane": ("RUNNING", RunEnd("FAILED", "its lane died"), "FAILED"),
        "never begun": ("SCHEDULED", RunEnd("KILLED"), "KILLED"),
        "at work": ("RUNNING", RunEnd("RUNNING"), "RUNNING"),
        "waiting": ("SCHEDULED", RunEnd("SCHEDULED"), "SCHEDULED"),
        "ended": ("FAILED", RunEnd("FINISHED"), "FAILED"),
        "nobody's": ("RUNNING", None, "KILLED"),
    }
    runs = {name: tracking.start_job(parent, job(name=name)) for name in cases}
    for name, (before, _, _) in cases.items():
        tracking.client.update_run(runs[name], status=before)
    ends = {runs[name]: end for name, (_, end, _) in cases.items() if end is not None}
    assert tracking.reap(parent, ends) == 3
    found = {name: tracking.client.get_run(run) for name, run in runs.items()}
    assert {name: run.info.status for name, run in found.items()} == {name: end for name, (*_, end) in cases.items()}
    assert found["dead lane"].data.tags["error"] == "its lane died"
    assert "no job holds" in found["nobody's"].data.tags["error"]
    assert tracking.reap(parent, ends) == 0
