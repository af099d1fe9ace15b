"""A version that was deleted is noticed by the next submit of its manifest, and made good with what is there."""

import shutil
import socket

import pytest
from own_lane import jobs_of, lane

from lorafleet.bundle.bundle import CARD
from lorafleet.removal.receipt import Receipt
from lorafleet.removal.versions import remove_versions
from lorafleet.tracking import MlflowRegistry
from lorafleet.tracking.removal import MlflowRemoval
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import store_url
from lorafleet_jobs.submission.done import done_in


@pytest.fixture
def submitted(home, tracking, recorded):
    """submitted("pets", "rex") records a submission and lets a lane do what is to be done; returns its id."""

    def submit(name, *subjects):
        submission = recorded(home, name, *subjects, steps=1)
        waiting = {job.spec.subject for job in jobs_of(home, submission).values() if job.state == "queued"}
        lane(home, tracking, JobQueue(store_url(home), submission))
        return submission, waiting

    return submit


def made_at(home, job):
    return (home.bundles / job.id / CARD).stat().st_mtime_ns


def test_a_version_deleted_by_hand_is_published_again_from_its_bundle(home, tracking, submitted):
    submission, waiting = submitted("by-hand", "cup", "jug")
    assert waiting == {"cup", "jug"}
    cup = jobs_of(home, submission)["cup"]
    trained = made_at(home, cup)
    tracking.client.delete_model_version("cup", "1")
    assert submitted("by-hand", "cup", "jug") == (submission, {"cup"})
    again = jobs_of(home, submission)["cup"]
    assert (again.state, again.version, again.run_id, again.attempts) == ("succeeded", 2, cup.run_id, 2)
    assert made_at(home, again) == trained, "not trained again"
    resolved = MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve("cup")
    assert (resolved.version, "champion" in resolved.aliases) == (2, True)
    assert submitted("by-hand", "cup", "jug") == (submission, set()), "once"
    assert tracking.client.get_run(cup.run_id).info.status == "FINISHED"


def test_a_run_that_was_deleted_too_is_opened_anew(home, tracking, submitted):
    submission, _ = submitted("with-run", "pot")
    before = jobs_of(home, submission)["pot"]
    tracking.client.delete_registered_model("pot")
    tracking.client.delete_run(before.run_id)
    submitted("with-run", "pot")
    after = jobs_of(home, submission)["pot"]
    assert (after.state, after.version) == ("succeeded", 1)
    assert after.run_id != before.run_id
    resolved = MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve("pot")
    assert (resolved.run_id, made_at(home, after)) == (after.run_id, made_at(home, before))


def test_without_a_bundle_it_is_trained_again_and_the_plan_says_so(home, submitted):
    submission, _ = submitted("removed", "pan")
    job = jobs_of(home, submission)["pan"]
    done = done_in(home)
    assert done(submission, [job.id]) == {job.id}
    mlflow = MlflowRemoval(home.tracking_uri)
    remove_versions(home, mlflow, mlflow.find("pan"), Receipt())
    assert done(submission, [job.id]) == set()
    assert submitted("removed", "pan") == (submission, {"pan"})
    assert jobs_of(home, submission)["pan"].version == 1
    shutil.rmtree(home.bundles / job.id)
    assert done(submission, [job.id]) == {job.id}, "its version is there, wherever its bundle lies"
    assert submitted("removed", "pan") == (submission, set())


def test_while_mlflow_is_away_a_finished_submission_stays_as_it_is(home, submitted, recorded, monkeypatch, capsys):
    submission, _ = submitted("away", "mug")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert recorded(home, "away", "mug", steps=1) == submission
    assert "still registered is not known" in capsys.readouterr().err
    assert jobs_of(home, submission)["mug"].state == "succeeded"
