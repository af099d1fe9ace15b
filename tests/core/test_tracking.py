"""MLflow as it really is: one SQLite store for the module."""

import logging
import socket
import time
import uuid
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from lorafleet.bundle import WEIGHTS, AdapterCard, Bundle, Trigger, write_bundle
from lorafleet.config import Recipe
from lorafleet.errors import BundleError, NotFoundError, UnreachableError
from lorafleet.tracking import JobInfo, MlflowRegistry, MlflowTracking, RunEnd
from lorafleet.tracking.links import NOTE, NOTE_AT_MOST, Child, parent_note


@pytest.fixture(scope="module")
def home(tmp_path_factory, with_mlflow):
    return with_mlflow(tmp_path_factory.mktemp("tracking home"))


@pytest.fixture(scope="module")
def tracking(home):
    return MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")


@pytest.fixture
def parent(tracking):
    return tracking.start_submission("pets", uuid.uuid4().hex, {"lanes": "2"}, "name: pets\n")


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


def counted(monkeypatch, client):
    """The sizes of the batches of metrics that go out from now on."""
    sizes = []
    real = client.log_batch

    def log_batch(run_id, metrics=(), **rest):
        sizes.append(len(metrics))
        return real(run_id, metrics, **rest)

    monkeypatch.setattr(client, "log_batch", log_batch)
    return sizes


def test_steps_share_a_batch_and_pictures_keep_key_and_step(tracking, parent, monkeypatch):
    child = tracking.start_job(parent, job())
    sizes = counted(monkeypatch, tracking.client)
    tracker = tracking.job_tracker(child)
    for step in range(50):
        tracker.metrics(step, {"train/loss": 1.0 / (step + 1), "train/lr": 1e-4})
    picture = Image.effect_noise((300, 200), 80).convert("RGB")
    tracker.image("val/p00", 2, picture)
    assert tracker.flush()
    assert sum(sizes) == 100
    assert len(sizes) <= 3, "the first on its own, the others together"
    history = tracking.client.get_metric_history(child, "train/loss")
    assert [(one.step, one.value) for one in history] == [(step, 1.0 / (step + 1)) for step in range(50)]
    full, small = sorted(file.path for file in tracking.client.list_artifacts(child, "images"))[::-1]
    assert full.startswith("images/val~p00+step+2+timestamp+")
    assert small == full.removesuffix(".png") + "+compressed.webp"
    with Image.open(tracking.client.download_artifacts(child, full)) as found:
        assert found.tobytes() == picture.tobytes()
    assert tracking.client.get_run(child).data.tags["mlflow.loggedImages"] == "True"


def test_more_than_mlflow_takes_at_once_arrives_in_batches(tracking, parent, monkeypatch):
    child = tracking.start_job(parent, job(recipe=Recipe(rank=4, targets=["x" * 7000])))
    assert len(tracking.client.get_run(child).data.params["targets"]) == 6000
    sizes = counted(monkeypatch, tracking.client)
    tracker = tracking.job_tracker(child)
    tracker.flush()
    for step in range(4):
        tracker.metrics(step, {f"eval/{n}": float(n) for n in range(400)})
    tracker.metrics(4, {f"eval/{n}": float(n) for n in range(2300)})
    assert tracker.flush()
    assert max(sizes[:-1]) <= 1000
    assert sizes[-1] == 2300, "one step stays one call; the client divides it"
    assert len(tracking.client.get_run(child).data.metrics) == 2300
    assert [one.step for one in tracking.client.get_metric_history(child, "eval/7")] == [0, 1, 2, 3, 4]
    many = tracking.start_submission("many", "e" * 16, {f"key{n}": "v" for n in range(230)}, "")
    assert len(tracking.client.get_run(many).data.params) == 230


def test_a_number_that_mlflow_refuses_is_left_out_and_the_others_arrive(tracking, parent, caplog):
    child = tracking.start_job(parent, job())
    tracker = tracking.job_tracker(child)
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            tracker.metrics(step, {"bad\nkey!" if step % 2 else "train/loss": 0.5})
        assert tracker.flush()
    assert caplog.text.count("left out") == 1
    assert [one.step for one in tracking.client.get_metric_history(child, "train/loss")] == [0, 2, 4]


def test_a_run_that_mlflow_does_not_know_is_told_once_and_holds_up_no_other(tracking, parent, caplog):
    child = tracking.start_job(parent, job())
    unknown = "0" * 32
    tracking.resume(unknown, attempt=2)
    for step in range(3):
        tracking.job_tracker(unknown).metrics(step, {"train/loss": 1.0})
        tracking.job_tracker(child).metrics(step, {"train/loss": 1.0})
    assert tracking.job_tracker(child).flush()
    assert tracking.job_tracker(unknown).flush()
    assert caplog.text.count(unknown) <= 2
    assert len(tracking.client.get_metric_history(child, "train/loss")) == 3


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
    for folder in (stored, version.path):
        assert registry.resolve("bad").path == folder
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="do not match the sha256"):
        registry.resolve("bad")
    assert registry.cache_stats().bytes == 0


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


def test_a_run_that_was_opened_for_nobody_is_taken_up_and_that_of_another_home_is_not(tracking, home, tmp_path):
    parent = tracking.start_submission("orphans", "0011223344556677", {"lanes": "2"}, "name: orphans\n")
    child = tracking.start_job(parent, job())
    again = MlflowTracking(tracking.uri, home / "artifacts")  # the rows were never told of either
    assert again.start_submission("orphans", "0011223344556677", {"lanes": "2"}, "name: orphans\n") == parent
    assert again.start_job(parent, job()) == child
    assert again.start_job(parent, job(name="rex r4-seed1")) != child
    again.finish(child, "FAILED", "bad day")
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


def test_descriptions_lead_from_a_submission_to_its_jobs_and_versions_and_back(tracking, home):
    parent = tracking.start_submission("linked", "2" * 16, {}, "")
    runs = [tracking.start_job(parent, job(name, name=f"{name}-1", job_id=name * 8)) for name in ("ab", "cd")]
    experiment = tracking.client.get_run(parent).info.experiment_id
    back = f"[linked 22222222](#/experiments/{experiment}/runs/{parent})"
    assert all(note_of(tracking, run) == f"Part of {back}" for run in runs)
    tracking.register(bundle_at(home / "bundles" / "ab", "ab", "ab" * 8), runs[0])
    tracking.finish(runs[0], "FINISHED")
    tracking.finish(runs[1], "FAILED", "gone")
    tracking.link(parent)
    table = note_of(tracking, parent)
    assert "2 jobs: 1 failed, 1 finished" in table
    assert f"| [cd-1](#/experiments/{experiment}/runs/{runs[1]}) | failed | cd |" in table
    assert f"| [ab-1](#/experiments/{experiment}/runs/{runs[0]}) | finished | [ab@1](#/models/ab/versions/1) |" in table
    assert table.index("cd-1") < table.index("ab-1"), "failed first"
    assert note_of(tracking, runs[0]) == f"Part of {back}; made [ab@1](#/models/ab/versions/1)"


def note_of(tracking, run_id):
    return tracking.client.get_run(run_id).data.tags[NOTE]


def test_a_table_too_long_for_mlflow_keeps_the_failed_and_says_how_many_are_missing():
    states = ["FINISHED"] * 150 + ["FAILED"] * 3
    children = [Child(f"{n:032x}", f"cat-{n}", state, f"cat-{n}", "1") for n, state in enumerate(states)]
    table = parent_note("1", "f" * 32, children)
    assert len(table) <= NOTE_AT_MOST
    rows = [line for line in table.splitlines() if line.startswith("| [")]
    assert sum("| failed |" in row for row in rows) == 3
    assert table.splitlines()[-1] == f"| and {153 - len(rows)} more | | |"
