"""A lane without a cluster: the real trainer on a toy base, real rows, real MLflow, a queue in the same process."""

import json
import socket
import time

import pytest
import torch
from own_lane import jobs_of, lane

from lorafleet.errors import NotFoundError
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet_jobs.jobqueue import job_state as rows
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.job_state import BACKOFF_SECONDS, LEASE_SECONDS
from lorafleet_jobs.jobqueue.status import open_store, store_url
from lorafleet_jobs.train.batching import ExactBatching


def test_a_job_that_fails_fails_alone_and_says_why_in_one_line(home, tracking, recorded, tmp_path):
    submission = recorded(home, "alone", "gone", "good", steps=2)
    for picture in (tmp_path / "gone").iterdir():
        picture.unlink()
    lane(home, tracking, JobQueue(store_url(home), submission))
    jobs = jobs_of(home, submission)
    assert (jobs["gone"].state, jobs["good"].state) == ("failed", "succeeded")
    assert "0.png" in jobs["gone"].error
    assert "\n" not in jobs["gone"].error
    assert (jobs["good"].step, jobs["good"].version) == (2, 1)
    status = {name: tracking.client.get_run(job.run_id).info.status for name, job in jobs.items()}
    assert status == {"gone": "FAILED", "good": "FINISHED"}
    run = tracking.client.get_run(jobs["good"].run_id)
    assert "train/loss" in run.data.metrics
    adapter = MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve("good")
    assert (adapter.run_id, adapter.triggers) == (jobs["good"].run_id, ("<good>",))
    assert not (home.bundles / jobs["gone"].id).exists()


class Watched(JobQueue):
    """Notes how many jobs are leased at once."""

    def __init__(self, *rest):
        super().__init__(*rest)
        self.held, self.most = set(), 0

    def lease(self, lane, holding):
        lease = super().lease(lane, holding)
        if lease is not None:
            self.held.add(lease.spec.id)
            self.most = max(self.most, len(self.held))
        return lease

    def finish(self, job, attempt, *rest):
        self.held.discard(job)
        return super().finish(job, attempt, *rest)

    def fail(self, job, attempt, *rest):
        self.held.discard(job)
        return super().fail(job, attempt, *rest)


def test_a_pack_of_three_trains_five_jobs_and_the_bad_one_leaves_alone(home, tracking, recorded, tmp_path):
    submission = recorded(home, "packed", "one", "two", "bad", "four", "five", steps=3)
    for picture in (tmp_path / "bad").iterdir():
        picture.unlink()
    queue = Watched(store_url(home), submission)
    lane(home, tracking, queue, pack=3)
    jobs = jobs_of(home, submission)
    assert {name: job.state for name, job in jobs.items()} == {
        "one": "succeeded", "two": "succeeded", "bad": "failed", "four": "succeeded", "five": "succeeded",
    }  # fmt: skip
    assert queue.most == 3
    assert all(jobs[name].version == 1 for name in ("one", "two", "four", "five"))


class Interrupted(JobQueue):
    """Somebody cancels the submission at its first step."""

    def progress(self, job, attempt, step, loss):
        self._store.end(self.submission, "cancelled", "changed my mind", self._clock())
        return super().progress(job, attempt, step, loss)


@pytest.mark.parametrize("pack", [1, 2])
def test_a_cancelled_job_stops_at_its_next_step_and_publishes_nothing(home, tracking, recorded, pack):
    submission = recorded(home, "stopped" * pack, "cup", "jug", steps=500)
    lane(home, tracking, Interrupted(store_url(home), submission), pack)
    jobs = jobs_of(home, submission)
    assert {job.state for job in jobs.values()} == {"cancelled"}
    assert jobs["cup"].error == "changed my mind"
    assert not any((home.bundles / job.id).exists() for job in jobs.values())
    with pytest.raises(NotFoundError):
        MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve("cup")


class Stolen(JobQueue):
    """The lease runs out after the last step, and another lane takes the job."""

    def progress(self, job, attempt, step, loss):
        held = super().progress(job, attempt, step, loss)
        if step == 2:
            for after in (2 * LEASE_SECONDS, 2 * LEASE_SECONDS + BACKOFF_SECONDS):
                self._store.lease(self.submission, "b", self._clock() + after)
        return held

    def is_drained(self):
        return True  # so that this lane does not wait for the other


def test_a_lane_that_lost_its_job_does_not_publish_it(home, tracking, recorded):
    submission = recorded(home, "stolen", "pot", steps=2)
    lane(home, tracking, Stolen(store_url(home), submission))
    job = jobs_of(home, submission)["pot"]
    assert (job.state, job.attempts, job.lane) == ("running", 2, "b")
    with pytest.raises(NotFoundError):
        MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve("pot")
    open_store(home).give_back_all(submission, time.time())
    trained = (home.bundles / job.id / "adapter.json").stat().st_mtime_ns
    lane(home, tracking, JobQueue(store_url(home), submission))
    assert jobs_of(home, submission)["pot"].state == "succeeded"
    assert (home.bundles / job.id / "adapter.json").stat().st_mtime_ns == trained, "published, not trained again"


def test_an_outage_of_mlflow_delays_publishing_but_loses_no_training(home, tracking, recorded, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    submission = recorded(home, "outage", "pan", steps=2)
    monkeypatch.setattr(rows, "WAITS", 1)
    monkeypatch.setattr(rows, "BACKOFF_SECONDS", 0.0)
    lane(home, MlflowTracking(f"http://127.0.0.1:{port}", home.artifacts), JobQueue(store_url(home), submission))
    job = jobs_of(home, submission)["pan"]
    assert (job.state, job.kind, job.attempts) == ("failed", "publish", 2)
    assert "does not answer" in job.error
    card = json.loads((home.bundles / job.id / "adapter.json").read_text())
    open_store(home).retry(submission, time.time())
    lane(home, tracking, JobQueue(store_url(home), submission))
    job = jobs_of(home, submission)["pan"]
    assert (job.state, job.attempts, job.version) == ("succeeded", 3, 1)
    assert json.loads((home.bundles / job.id / "adapter.json").read_text()) == card


@pytest.fixture
def undecided():
    """Torch as it was before a lane asked for deterministic algorithms."""
    yield
    torch.use_deterministic_algorithms(False)


def test_an_exact_lane_trains_a_pack_in_calls_of_one_job_with_deterministic_algorithms(
    home, tracking, recorded, undecided, monkeypatch
):
    asked = []
    split = ExactBatching.split
    monkeypatch.setattr(ExactBatching, "split", lambda self, *rest: asked.append(split(self, *rest)) or asked[-1])
    submission = recorded(home, "exact", "a", "b", steps=2, exact=True)
    assert lane(home, tracking, JobQueue(store_url(home), submission), pack=2) == "drained"
    assert {job.state for job in jobs_of(home, submission).values()} == {"succeeded"}
    assert {len(part) for parts in asked for part in parts} == {1}
    assert any(len(parts) == 2 for parts in asked), "both jobs were in one pack"
    assert torch.are_deterministic_algorithms_enabled()
