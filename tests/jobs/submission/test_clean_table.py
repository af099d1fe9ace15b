"""MLflow's table after a second submission of the same photos: no run that says nothing, none that says it twice."""

import json
from urllib.parse import unquote

import pytest
import yaml
from own_lane import jobs_of, lane
from PIL import Image

from lorafleet.tracking.client import connect
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import load_submission, open_store, store_url
from lorafleet_jobs.submission.mlflow_runs import close_runs
from lorafleet_jobs.submission.submit import record


@pytest.fixture
def submitted(home, tracking, tmp_path):
    """submitted(name, subjects) trains what is not there yet; returns the submission's row and its jobs by subject."""

    def make(name, *subjects):
        for number, subject in enumerate(subjects):
            (tmp_path / subject).mkdir(exist_ok=True)
            for index in range(2):
                Image.new("RGB", (40, 40), (90 * index, 60, 99 * number)).save(tmp_path / subject / f"{index}.png")
        manifest = {
            "name": name, "base": "toy-playground", "recipe": {"rank": 2, "steps": 2, "seed": 11},
            "validation": {"steps": 1},
            "subjects": [{"name": subject, "images": subject, "class": "mug"} for subject in subjects],
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(manifest))
        prepared = prepare(tmp_path / f"{name}.yaml")
        record(prepared, home)
        lane(home, tracking, JobQueue(store_url(home), prepared.plan.submission))
        close_runs(open_store(home), tracking, prepared.plan.submission)
        return load_submission(home, prepared.plan.submission).row, jobs_of(home, prepared.plan.submission)

    return make


def test_what_another_submission_trained_has_the_run_that_trained_it(submitted, tracking):
    first, before = submitted("first", "cup")
    run = tracking.client.get_run(before["cup"].run_id)
    second, after = submitted("second", "cup", "jug")
    assert [job.state for job in after.values()] == ["succeeded", "succeeded"]
    assert after["cup"].run_id == before["cup"].run_id
    assert after["jug"].run_id is not None
    children = runs_below(tracking, second)
    assert [child.info.run_name for child in children] == ["jug"]
    again = tracking.client.get_run(run.info.run_id)
    assert (again.info, again.data.metrics) == (run.info, run.data.metrics), "it is as it was"
    note = tracking.client.get_run(second.run_id).data.tags["mlflow.note.content"]
    assert note.startswith("2 jobs: 2 succeeded. ")
    first_experiment = tracking.client.get_run(first.run_id).info.experiment_id
    link = f"| [cup](#/experiments/{first_experiment}/runs/{run.info.run_id})"
    assert f"{link} | succeeded, trained earlier | [cup@1](#/models/cup/versions/1) |" in note
    assert first.run_id in again.data.tags["mlflow.note.content"], "whose way back is still its own submission"


def test_in_one_experiment_the_table_shows_what_was_trained_earlier_too(submitted, tracking):
    _, before = submitted("grows", "pot")
    second, after = submitted("grows", "pot", "pan")
    parent = tracking.client.get_run(second.run_id)
    shown = json.loads(parent.data.tags["lorafleet.shown"])
    assert set(shown) == {before["pot"].run_id, after["pan"].run_id}
    [link] = {part.split(")")[0] for part in parent.data.tags["mlflow.note.content"].split("[table](")[1:]}
    wanted = unquote(link.split("searchFilter=")[1].split("&")[0])
    found = tracking.client.search_runs([parent.info.experiment_id], wanted, order_by=["tags.`mlflow.runName` ASC"])
    assert [run.info.run_name for run in found] == ["pan", "pot"]


def test_a_run_that_was_deleted_is_not_taken_up(submitted, tracking):
    _, before = submitted("gone", "bin")
    tracking.client.delete_run(before["bin"].run_id)
    second, after = submitted("gone-again", "bin")
    assert after["bin"].run_id != before["bin"].run_id
    assert [run.info.run_name for run in runs_below(tracking, second)] == ["bin"]


def test_the_time_in_the_queue_is_not_the_time_of_training(submitted, tracking):
    _, jobs = submitted("timed", "one", "two")
    for job in jobs.values():
        run = tracking.client.get_run(job.run_id)
        [(step, seconds)] = tracking.history(job.run_id, "perf/train_seconds")
        assert step == 2
        assert seconds == pytest.approx(job.updated - job.started)
        assert 0 < seconds < (run.info.end_time - run.info.start_time) / 1000
    late, early = sorted(tracking.history(job.run_id, "perf/train_seconds")[0][1] for job in jobs.values())[::-1]
    whole = max(job.updated for job in jobs.values()) - min(job.started for job in jobs.values())
    assert late + early <= whole + 0.1, "one after another"


def runs_below(tracking, submission):
    above = tracking.client.get_run(submission.run_id).info
    wanted = f"tags.`mlflow.parentRunId` = '{submission.run_id}'"
    return tracking.client.search_runs([above.experiment_id], wanted)


def test_a_new_database_leaves_nothing_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    client = connect(f"sqlite:///{tmp_path / 'a home' / 'mlflow.db'}")
    [default] = client.search_experiments()
    assert default.artifact_location == (tmp_path / "a home" / "artifacts" / "0").as_uri()
    client.log_text(client.create_run("0").info.run_id, "x", "a.txt")
    assert not list((tmp_path / "here").iterdir())
