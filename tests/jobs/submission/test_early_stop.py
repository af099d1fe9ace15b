"""Early stop on a real Ray: six points of two subjects, two lanes; what does badly ends, what does well is kept."""

import json

import pytest
import yaml

from lorafleet.cli import new_app, run
from lorafleet.home import Home
from lorafleet.toy.subjects import write_subjects
from lorafleet.tracking import MlflowRegistry
from lorafleet.tracking.client import connect
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.cluster.ray_cluster import cluster
from lorafleet_jobs.jobqueue.asha_scores import ScoreBook
from lorafleet_jobs.jobqueue.status import load_submission, open_store

RATES = (1e-3, 3e-4, 0.2, 0.1, 1e-5, 0.3)  # the large ones ruin the picture within three steps


@pytest.fixture
def manifest(tmp_path):
    subjects = write_subjects(tmp_path / "photos", ["mug", "dog"], pictures=4)
    text = {
        "apiVersion": "lorafleet/v1alpha1", "name": "sweep", "base": "toy-playground",
        "recipe": {"rank": 2, "steps": 8, "optimizer": "adamw"}, "validation": {"steps": 2},
        "subjects": [{"name": one.name, "images": str(one.folder), "class": one.identity.noun} for one in subjects],
        "sweep": {"points": [{"learning_rate": rate} for rate in RATES]},
        "early_stop": {"metric": "score", "eta": 2, "first": 3}, "resources": {"lanes": 2, "pack": 3},
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(text))
    return tmp_path / "sweep.yaml"


def lorafleet(*arguments):
    app = new_app()
    register(app)
    return run(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_what_does_badly_ends_early_and_the_best_is_published(manifest, tmp_path, with_mlflow, monkeypatch, capsys):
    home = Home(with_mlflow(tmp_path / "home"))
    monkeypatch.setenv("LORAFLEET_HOME", str(home.root))
    with cluster("local", cpus=2):
        assert lorafleet("submit", manifest, "--yes", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "succeeded", said
    done = load_submission(home, None)
    assert {job.state for job in done.jobs} == {"succeeded", "stopped"}
    _each_was_compared_with_its_own_subject(done)
    _runs_and_registry_agree(home, done)
    assert not home.checkpoints.exists() or not any(home.checkpoints.iterdir())

    assert lorafleet("submit", manifest, "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == said["jobs"], "who was stopped is not started again"


def _each_was_compared_with_its_own_subject(done):
    book = ScoreBook(open_store(Home.from_environment()).engine)
    for subject in {job.spec.subject for job in done.jobs}:
        jobs = [job for job in done.jobs if job.spec.subject == subject]
        first = book.of_rung(done.id, subject, 3)
        assert len(first) == len(jobs) == len(RATES)
        assert len(book.of_rung(done.id, subject, 6)) < len(jobs)
        assert any(job.state == "stopped" for job in jobs)
        best = max(jobs, key=lambda job: _score(job, 3))
        assert best.state == "succeeded" or best.step == 6, "the best goes on"
    for job in done.jobs:
        if job.state == "stopped":
            assert job.step in (3, 6)
            assert job.error.startswith(f"stopped at step {job.step} of 8 by early_stop: score ")
            assert (job.version, job.kind) == (None, None)


def _score(job, step):
    points = connect(Home.from_environment().tracking_uri).get_metric_history(job.run_id, "eval/score")
    return next(point.value for point in points if point.step == step)


def _runs_and_registry_agree(home, done):
    client = connect(home.tracking_uri)
    registered = {(one.name, one.version): one.run_id for one in MlflowRegistry(home.tracking_uri, home.cache).list()}
    assert registered == {(job.spec.adapter, job.version): job.run_id for job in done.jobs if job.state == "succeeded"}
    for job in done.jobs:
        found = client.get_run(job.run_id)
        assert found.info.status == ("KILLED" if job.state == "stopped" else "FINISHED")
        assert found.data.tags.get("lorafleet.stopped_at") == (str(job.step) if job.state == "stopped" else None)
        assert "error" not in found.data.tags
        steps = {point.step for point in client.get_metric_history(job.run_id, "eval/score")}
        assert steps == {step for step in (3, 6, 8) if step <= job.step}
    parent = client.get_run(done.row.run_id)
    assert parent.info.status == "FINISHED"
    stopped, kept = (sum(job.state == state for job in done.jobs) for state in ("stopped", "succeeded"))
    assert f"{len(done.jobs)} jobs: {stopped} stopped, {kept} succeeded." in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["jobs/stopped"] > 0
