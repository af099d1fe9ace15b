"""A detached submission steered from outside, with nothing stubbed: driver, lanes, MLflow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import mlflow
import pytest

from lorafleet.cli import new_app, run
from lorafleet.home import Home
from lorafleet.toy.subjects import write_manifest, write_subjects
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.jobqueue.status import load_submission

PATIENCE = 240.0


@pytest.fixture
def home(tmp_path, with_mlflow, monkeypatch):
    root = with_mlflow(tmp_path / "home")
    monkeypatch.setenv("LORAFLEET_HOME", str(root))
    return Home(root)


def lorafleet(*arguments) -> int:
    app = new_app()
    register(app)
    return run(app, [str(argument) for argument in arguments])


def jobs(home) -> dict[str, object]:
    return {job.spec.adapter: job for job in load_submission(home, None).jobs}


def statuses(home) -> dict[str, str]:
    client = mlflow.MlflowClient(home.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("pair").experiment_id])
    return {run.data.tags.get("adapter", "submission"): run.info.status for run in runs}


@pytest.mark.slow
def test_detach_watch_cancel_wait_retry_wait(home, tmp_path, capsys):
    subjects = write_subjects(tmp_path / "photos", ("mug", "dog"), pictures=4)
    left, right = (subject.name for subject in subjects)
    write_manifest(tmp_path / "pair.yaml", "pair", "toy-playground", subjects, lanes=1, preset="fast", steps=80)
    try:
        assert lorafleet("submit", tmp_path / "pair.yaml", "--yes", "--detach") == 0
        submission = load_submission(home, None).id
        watching = subprocess.Popen(
            [sys.executable, "-m", "lorafleet", "watch", submission], stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + PATIENCE
        while not (jobs(home)[right].state == "running" and jobs(home)[right].step > 0):
            assert time.monotonic() < deadline, (home.submissions / submission / "driver.log").read_text()
            time.sleep(0.05)
        assert lorafleet("cancel", submission, right) == 0
        first_said = watching.stderr.readline()
        watching.send_signal(signal.SIGINT)
        farewell = watching.communicate(timeout=PATIENCE)[1]
        assert (watching.returncode, first_said.split(",")[0]) == (0, f"{left}: running")
        assert f"{submission} goes on training; come back with lorafleet watch {submission}" in farewell

        assert lorafleet("wait", submission) == 1
        ended = jobs(home)
        assert (ended[left].state, ended[right].state) == ("succeeded", "cancelled")
        assert 0 < ended[right].step < 80
        assert statuses(home) == {"submission": "FAILED", left: "FINISHED", right: "KILLED"}
        assert "<b>1</b> cancelled" in home.report(submission).read_text()

        capsys.readouterr()
        assert lorafleet("retry", submission) == 0
        assert f"queued again {right}" in capsys.readouterr().err
        assert lorafleet("wait", submission, "--json") == 0
        (document,) = json.loads(capsys.readouterr().out)["submissions"]
        assert [(job["state"], job["version"], job["attempts"]) for job in document["jobs"]] == [
            ("succeeded", 1, 1), ("succeeded", 1, 2),
        ]  # fmt: skip
        assert statuses(home) == {"submission": "FINISHED", left: "FINISHED", right: "FINISHED"}
        assert home.report(submission).read_text().count("data:image/png") == 2

        assert lorafleet("logs", right) == 0
        said = capsys.readouterr().out
        for words in ("attempt 1, lane", "cancelled", "queued again", "attempt 2, lane", f"{right}@1 is champion"):
            assert words in said, words
    finally:
        lorafleet("cancel", "pair")  # nothing, unless an assertion failed; its driver then ends by itself
