"""What dead lanes left is removed, and nothing that may still be of use."""

from dataclasses import replace

import pytest
from job_rows import spec

from lorafleet.config import Resources
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import SubmissionRow
from lorafleet_jobs.submission.cleanup import collect

JOBS = {
    "waits": {"state": "queued"}, "runs": {"state": "running"}, "done": {"state": "succeeded"},
    "dead": {"state": "failed", "kind": "lost"}, "full": {"state": "failed", "kind": "storage"},
    "bad": {"state": "failed", "kind": "data"}, "gone": {"state": "cancelled", "kind": "cancelled"},
    "stop": {"state": "stopped"}, "wild": {"state": "running", "seed_shift": 1},
}  # fmt: skip


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    for name in [*JOBS, "wild-seed1", "stranger"]:
        (home.checkpoints / name / "step-000002").mkdir(parents=True)
        (home.checkpoints / name / ".0a1b").mkdir()
    for name in [*JOBS, "stranger"]:
        (home.bundles / f".{name}.0a1b").mkdir(parents=True)
        (home.bundles / name).mkdir()
    return home


@pytest.fixture
def store():
    store = JobStore("sqlite://")
    for submission in ("s", "other"):
        store.add(
            SubmissionRow(submission, "pets", "toy", "", 1, Resources()), tuple(spec(job, "s") for job in JOBS), 0.0
        )
        for name, state in JOBS.items():
            store.change(submission, name, lambda row, state=state: replace(row, **state))
    return store


def left(folder, pattern="*"):
    return {path.name for path in folder.glob(pattern)}


def test_checkpoints_stay_where_a_job_may_go_on_and_scratch_where_one_runs(home, store):
    collect(home, store, "s")
    assert left(home.checkpoints) == {"waits", "runs", "dead", "full", "wild-seed1", "stranger"}
    assert {path.parent.name for path in home.checkpoints.glob("*/.0a1b")} == {"runs", "wild-seed1", "stranger"}
    assert left(home.bundles, ".*") == {".runs.0a1b", ".wild.0a1b", ".stranger.0a1b"}
    assert left(home.bundles, "[a-z]*") == {*JOBS, "stranger"}, "whole bundles are never touched"
    assert len(left(home.checkpoints, "*/step-000002")) == 1


def test_what_another_submission_still_needs_stays(home, store):
    store.change("other", "gone", lambda row: replace(row, state="queued"))
    collect(home, store, "s")
    assert "gone" in left(home.checkpoints)


def test_what_a_dead_driver_s_lanes_left_with_ray_train_goes(home, store):
    for name in ("s-0a1b2c3d-0-0", "s-0a1b2c3d-1-3", "s-2-0a1b2c3d-0-0", "other-0a1b2c3d-0-0"):
        (home.ray_temp / name).mkdir(parents=True)
    collect(home, store, "s")
    assert left(home.ray_temp) == {"s-2-0a1b2c3d-0-0", "other-0a1b2c3d-0-0"}


def test_nothing_at_all_is_no_reason_to_fail(tmp_path, store):
    assert collect(Home(tmp_path / "fresh"), store, "s") == []
