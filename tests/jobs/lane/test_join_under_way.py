"""A job that a lane leases while its pack is under way: prepared beside the steps, failed or let go as at any time."""

import pytest
from own_lane import jobs_of, lane

from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import store_url
from lorafleet_jobs.lane import heartbeat
from lorafleet_jobs.lane import lane as lane_module
from lorafleet_jobs.train.data.dataset import Dataset


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(lane_module, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(heartbeat, "PROGRESS_SECONDS", 0.0)


class Late(JobQueue):
    """The second job comes once the first has taken two steps; notes how far the first is at each lease and start."""

    def __init__(self, *rest):
        super().__init__(*rest)
        self.leased, self.started, self.steps = [], {}, {}

    def lease(self, lane, holding):
        if holding and max(self.steps.values(), default=0) < 2:
            return None
        lease = super().lease(lane, holding)
        if lease is not None:
            self.leased.append(max(self.steps.values(), default=0))
        return lease

    def progress(self, job, attempt, step, loss):
        self.steps[job] = step
        self.started.setdefault(job, max(self.steps.values()))
        return super().progress(job, attempt, step, loss)


def log_of(home, job):
    return home.job_log(job.submission, job.id).read_text()


def test_the_pack_steps_while_a_job_is_prepared_and_both_are_published(home, tracking, recorded):
    submission = recorded(home, "late", "cup", "jug", steps=20)
    queue = Late(store_url(home), submission)
    assert lane(home, tracking, queue, pack=2) == "drained"
    assert {job.state for job in jobs_of(home, submission).values()} == {"succeeded"}
    assert queue.leased[1] >= 2
    assert max(queue.started.values()) > queue.leased[1], "the first went on before the second began"


def test_one_that_cannot_be_prepared_fails_alone_and_says_why(home, tracking, recorded, tmp_path):
    submission = recorded(home, "spoilt", "cup", "jug", steps=20)
    (tmp_path / "jug" / "3.png").write_bytes(b"no picture")
    assert lane(home, tracking, Late(store_url(home), submission), pack=2) == "drained"
    jobs = jobs_of(home, submission)
    assert (jobs["cup"].state, jobs["jug"].state, jobs["jug"].kind) == ("succeeded", "failed", "data")
    assert "3.png is not the file that was planned with" in jobs["jug"].error


class Lost(Late):
    """Another lane has taken the second job, which its heartbeats notice."""

    second = None

    def lease(self, lane, holding):
        lease = super().lease(lane, holding) if self.second is None else None
        if lease is not None and holding:
            self.second = lease.spec.id
        return lease

    def heartbeat(self, job, attempt):
        return job != self.second and super().heartbeat(job, attempt)

    def is_drained(self):
        return True  # so that this lane does not wait for the other


def test_one_that_is_lost_while_it_is_prepared_is_let_go_before_it_trains(home, tracking, recorded, monkeypatch):
    opening = Dataset.opening.__func__

    def slowly(cls, *rest):
        for _ in range(10_000):
            yield None
        return (yield from opening(cls, *rest))

    monkeypatch.setattr(Dataset, "opening", classmethod(slowly))
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr("lorafleet_jobs.lane.leased_job.PIECES_SECONDS", 0.0)
    submission = recorded(home, "taken", "cup", "jug", steps=40)
    assert lane(home, tracking, Lost(store_url(home), submission), pack=2) == "drained"
    jobs = jobs_of(home, submission)
    assert (jobs["cup"].state, jobs["jug"].state) == ("succeeded", "running")
    assert "dropped: it was cancelled" in log_of(home, jobs["jug"])
    assert "training" not in log_of(home, jobs["jug"])
    assert not (home.bundles / jobs["jug"].id).exists()


def test_a_lane_that_must_leave_gives_back_what_it_prepares(home, tracking, recorded):
    submission = recorded(home, "leaving", "cup", "jug", steps=400)
    queue = Late(store_url(home), submission)
    assert lane(home, tracking, queue, 2, lambda: len(queue.leased) == 2) == "preempted"
    jobs = jobs_of(home, submission)
    assert {job.state for job in jobs.values()} == {"queued"}
    assert "given back at step 0" in log_of(home, jobs["jug"])
