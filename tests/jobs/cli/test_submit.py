"""`submit`, `status` and `watch` as their users meet them, up to the point where a cluster would start."""

import json
import time

import pytest
import yaml
from job_rows import finish, progress
from PIL import Image

from lorafleet.cli import new_app, run
from lorafleet.home import Home
from lorafleet.tracking.client import connect
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.cli.terminal.watch import PlainLines, line
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.status import open_store
from lorafleet_jobs.submission.submit import record


@pytest.fixture
def home(tmp_path, with_mlflow, monkeypatch):
    root = with_mlflow(tmp_path / "home")
    monkeypatch.setenv("LORAFLEET_HOME", str(root))
    return Home(root)


@pytest.fixture
def manifest(tmp_path):
    for subject in ("cup", "jug"):
        (tmp_path / subject).mkdir()
        for index in range(4):
            colour = (60 * index + 30, 90, len(subject + "x") if subject == "cup" else 200)
            Image.new("RGB", (48, 40), colour).save(tmp_path / subject / f"{index}.png")
    text = {
        "apiVersion": "lorafleet/v1alpha1", "name": "kitchen", "base": "toy-playground",
        "recipe": {"rank": 2, "steps": 2}, "validation": {"steps": 1},
        "subjects": [{"name": subject, "images": subject, "class": "vessel"} for subject in ("cup", "jug")],
    }  # fmt: skip
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(text))
    return tmp_path / "manifest.yaml"


def lorafleet(*arguments):
    app = new_app()
    register(app)
    return run(app, [str(argument) for argument in arguments])


def succeed(home, submission):
    """As a lane leaves it: rows that succeeded, and versions that are registered."""
    store, client = open_store(home), connect(home.tracking_uri)
    while (row := store.lease(submission, "a", time.time())) is not None:
        progress(store, submission, row.id, row.attempts, 1, 0.25, time.time())
        finish(store, submission, row.id, row.attempts, "succeeded", time.time(), version=1)
        client.create_registered_model(row.spec.adapter)
        tags = {"job_id": row.id, "published": "true"}
        client.create_model_version(row.spec.adapter, f"runs:/{row.run_id}/adapter", run_id=row.run_id, tags=tags)


@pytest.mark.parametrize("command", [("status",), ("status", "kitchen"), ("watch", "kitchen")])
def test_a_home_without_submissions_is_exit_3_and_stays_empty(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "none"))
    assert lorafleet(*command) == 3
    assert "nothing was submitted" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_status_is_one_json_document_with_the_agreed_keys(home, manifest, capsys):
    prepared = prepare(manifest)
    record(prepared, home)
    assert lorafleet("status", "--json") == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["submission"], document["state"]) == (prepared.plan.submission, "queued")
    assert [(job["subject"], job["state"], job["step"], job["steps"]) for job in document["jobs"]] == [
        ("cup", "queued", 0, 2),
        ("jug", "queued", 0, 2),
    ]
    agreed = {"id", "subject", "adapter", "version", "state", "attempts", "step", "steps", "error"}
    assert all(agreed <= job.keys() for job in document["jobs"])
    assert "nobody is training" in said.err


def test_submitting_what_has_succeeded_starts_nothing_and_says_so(home, manifest, capsys):
    prepared = prepare(manifest)
    record(prepared, home)
    succeed(home, prepared.plan.submission)
    assert lorafleet("submit", manifest, "-y", "--json") == 0
    assert not home.ray_temp.exists()
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "succeeded"
    assert [job["version"] for job in document["jobs"]] == [1, 1]
    assert lorafleet("watch", prepared.plan.submission[:9]) == 0


def test_a_plan_says_what_exists_what_is_new_and_what_that_takes(home, manifest, tmp_path, capsys):
    assert lorafleet("plan", manifest) == 0
    whole = capsys.readouterr().out
    assert "\n2 new adapters: about " in whole
    assert "exists" not in whole
    record(prepare(manifest), home)
    succeed(home, prepare(manifest).plan.submission)
    assert lorafleet("submit", manifest, "--dry-run") == 0
    assert "\n2 adapters exist, nothing is new\n" in capsys.readouterr().out
    assert lorafleet("plan", manifest, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["done"] == [job["id"] for job in document["jobs"]]
    assert document["estimate"]["seconds"] == 0


def test_an_adapter_of_another_submission_is_not_new(home, manifest, capsys):
    """Its bundle lies in the home, and is published again without being trained."""
    [cup, jug] = prepare(manifest).plan.jobs
    (home.bundles / cup.id).mkdir(parents=True)
    (home.bundles / cup.id / "adapter.json").write_text("{}")
    (home.bundles / jug.id).mkdir()  # half written
    assert lorafleet("plan", manifest, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["done"] == [cup.id]
    assert lorafleet("submit", manifest, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "\n1 adapter exists, 1 new: about " in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith((cup.id, jug.id))] == ["exists", "new"]


def test_a_plan_on_gpus_says_hours_and_money(home, manifest, capsys):
    text = yaml.safe_load(manifest.read_text())
    text["resources"] = {"gpu_memory_gib": 24, "gpus_per_lane": 1, "price_per_gpu_hour": 2.5, "lanes": 2}
    manifest.write_text(yaml.safe_dump(text))
    assert lorafleet("plan", manifest, "--json") == 0
    takes = json.loads(capsys.readouterr().out)["estimate"]
    assert takes["gpu_hours"] >= takes["seconds"] / 3600 - 1e-3
    assert takes["price"] == pytest.approx(2.5 * takes["gpu_hours"], abs=0.01)
    assert lorafleet("plan", manifest) == 0
    assert f", {takes['gpu_hours']:.2g} GPU hours, {takes['price']:.2f} at 2.50 a GPU hour\n" in capsys.readouterr().out


def test_a_subject_that_was_left_out_makes_it_exit_1(home, manifest, tmp_path, capsys):
    for picture in (tmp_path / "jug").iterdir():
        picture.write_bytes(b"no picture")
    prepared = prepare(manifest)
    record(prepared, home)
    succeed(home, prepared.plan.submission)
    assert lorafleet("submit", manifest, "-y", "--json") == 1
    said = capsys.readouterr()
    assert [one["subject"] for one in json.loads(said.out)["skipped"]] == ["jug"]
    assert "jug is left out" in said.err


def test_what_the_check_found_is_told_before_anything_starts(home, manifest, tmp_path, capsys):
    (tmp_path / "cup" / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "jug" / "0.txt").write_text("a jug")
    prepared = prepare(manifest)
    record(prepared, home)
    succeed(home, prepared.plan.submission)
    assert lorafleet("submit", manifest, "-y", "--json") == 0
    told = capsys.readouterr().err.splitlines()
    assert told.index(next(line for line in told if line.startswith("warning: cup: D002: bad.jpg"))) < told.index(
        next(line for line in told if line.startswith(prepared.plan.submission))
    )
    assert "warning: jug: D011: 1 of 4 captions lack TOK, the word to be learned (0.txt); write it in" in told


def test_a_cluster_out_of_reach_is_exit_4_and_leaves_the_jobs_queued(home, manifest, capsys):
    assert lorafleet("submit", manifest, "-y", "--address", "127.0.0.1:1") == 4
    assert "no Ray answers at '127.0.0.1:1'" in capsys.readouterr().err
    assert lorafleet("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "queued"


def test_submitting_twice_opens_the_same_runs(home, manifest):
    prepared = prepare(manifest)
    record(prepared, home)
    before = open_store(home).jobs(prepared.plan.submission)
    record(prepared, home)
    after = open_store(home).jobs(prepared.plan.submission)
    assert [job.run_id for job in before] == [job.run_id for job in after]
    assert all(job.run_id for job in after)


def test_a_line_says_speed_since_the_first_step_and_time_to_go(home, manifest):
    spec = prepare(manifest).plan.jobs[0]
    values = {
        "state": "running", "attempts": 2, "step": 50, "steps": 200, "loss": 0.125,
        "started": 10.0, "stepping_since": 102.0, "stepping_from": 10, "updated": 110.0,
    }  # fmt: skip
    assert line(JobRow("kitchen", spec.id, 0, spec, **values), 110.0, "cup") == (
        "cup: running, step 50/200, loss 0.1250, 5.0 it/s, ETA 0:30, attempt 2"
    )
    assert line(
        JobRow("kitchen", spec.id, 0, spec, state="failed", kind="data", steps=200, error="no\nluck"), 0, "cup"
    ) == ("cup: failed, step 0/200, data: no luck")


def test_plain_lines_tell_each_change_once(home, manifest, capsys):
    from lorafleet_jobs.jobqueue.status import load_submission

    prepared = prepare(manifest)
    record(prepared, home)
    show = PlainLines()
    show(load_submission(home, None))
    assert capsys.readouterr().err == ""
    succeed(home, prepared.plan.submission)
    for _ in range(2):
        show(load_submission(home, None))
    assert capsys.readouterr().err.splitlines() == [
        "cup: succeeded, step 2/2, loss 0.2500, version 1",
        "jug: succeeded, step 2/2, loss 0.2500, version 1",
    ]
