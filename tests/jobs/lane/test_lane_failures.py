"""Bad days of a lane: memory, a loss that is no number, a hang, a notice to leave. Real trainer, rows and MLflow."""

import json
import time

import pytest
import torch
from own_lane import jobs_of, lane, seed_of
from safetensors.torch import load_file

from lorafleet.bundle.bundle import read_bundle
from lorafleet.errors import NonFiniteError
from lorafleet.home import Home
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.jobqueue import job_state as rows
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import open_store, store_url
from lorafleet_jobs.lane import heartbeat, recycle
from lorafleet_jobs.submission.mlflow_runs import open_runs

WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(rows, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(heartbeat, "PROGRESS_SECONDS", 0.0)


def log_of(home, job):
    return home.job_log(job.submission, job.id).read_text()


class TooSmall(JobQueue):
    """Memory suffices for so many jobs at once; more of them run out of it at their second step."""

    room = 1

    def progress(self, job, attempt, step, loss):
        running = sum(row.state == "running" for row in self._store.jobs(self.submission))
        if step == 2 and loss is not None and running > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return super().progress(job, attempt, step, loss)


def test_jobs_that_do_not_fit_together_are_tried_among_fewer_from_where_they_were(home, tracking, recorded):
    submission = recorded(home, "tight", "cup", "jug", "pan", "pot")
    assert lane(home, tracking, TooSmall(store_url(home), submission), pack=4) == "drained"
    jobs = jobs_of(home, submission)
    assert {job.state for job in jobs.values()} == {"succeeded"}
    assert {job.pack_limit for job in jobs.values()} <= {1, 2, None}
    assert any(job.pack_limit for job in jobs.values())
    tried = next(job for job in jobs.values() if job.attempts > 1)
    assert "memory: OutOfMemoryError" in log_of(home, tried)
    assert "goes on at step 2 of 4" in log_of(home, tried)


def test_a_job_that_does_not_fit_alone_fails_and_names_the_remedy(home, tracking, recorded):
    submission = recorded(home, "huge", "cup")
    queue = TooSmall(store_url(home), submission)
    queue.room = 0
    lane(home, tracking, queue)
    job = jobs_of(home, submission)["cup"]
    assert (job.state, job.kind, job.attempts) == ("failed", "memory", 1)
    assert "gradient_checkpointing" in job.error
    assert "\n" not in job.error


class Diverges(JobQueue):
    """With this seed the loss becomes no number; between two leases the driver opens runs that are missing."""

    def __init__(self, home, submission, tracking, seeds):
        super().__init__(store_url(home), submission)
        self.home, self.tracking, self.seeds, self.seed = home, tracking, seeds, None

    def lease(self, lane, holding):
        open_runs(self._store, self.tracking, self.submission, self.home)
        lease = super().lease(lane, holding)
        self.seed = lease.spec.recipe.seed if lease else None
        return lease

    def progress(self, job, attempt, step, loss):
        if step == 3 and self.seed in self.seeds:
            raise NonFiniteError("loss nan at step 3 is not finite; lower learning_rate")
        return super().progress(job, attempt, step, loss)


def test_a_loss_that_is_no_number_is_tried_once_with_another_seed_and_a_run_of_its_own(home, tracking, recorded):
    submission = recorded(home, "wild", "cup", checkpoint_seconds=0)
    before = jobs_of(home, submission)["cup"]
    lane(home, tracking, Diverges(home, submission, tracking, {seed_of("wild")}))
    job = jobs_of(home, submission)["cup"]
    assert (job.state, job.attempts, job.seed_shift) == ("succeeded", 2, 1)
    assert tracking.client.get_run(before.run_id).info.status == "FAILED"
    run = tracking.client.get_run(job.run_id)
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", str(seed_of("wild") + 1))
    steps = [point.step for point in tracking.client.get_metric_history(job.run_id, "train/loss")]
    assert steps == [1, 2, 3, 4], "the second seed began afresh"
    card = json.loads((home.bundles / job.id / "adapter.json").read_text())
    assert card["recipe"]["seed"] == seed_of("wild") + 1


def test_a_loss_that_is_no_number_twice_fails(home, tracking, recorded):
    submission = recorded(home, "wilder", "cup")
    lane(home, tracking, Diverges(home, submission, tracking, {seed_of("wilder"), seed_of("wilder") + 1}))
    job = jobs_of(home, submission)["cup"]
    assert (job.state, job.kind, job.attempts) == ("failed", "non-finite", rows.SEEDS)


class Leaves:
    """Gives notice when the first job has taken so many steps."""

    def __init__(self, home, submission, step):
        self.home, self.submission, self.step = home, submission, step

    def __call__(self):
        return jobs_of(self.home, self.submission)["cup"].step >= self.step


def test_a_lane_that_must_leave_keeps_its_jobs_and_the_next_ends_them_as_if_nothing_had_been(
    tmp_path, tracking, home, recorded, with_mlflow
):
    submission = recorded(home, "spot", "cup", "jug", exact=True)
    assert lane(home, tracking, JobQueue(store_url(home), submission), 2, Leaves(home, submission, 2)) == "preempted"
    jobs = jobs_of(home, submission)
    assert {(job.state, job.attempts, job.lanes_lost, job.step) for job in jobs.values()} == {("queued", 1, 0, 2)}
    assert lane(home, tracking, JobQueue(store_url(home), submission), 2) == "drained"
    jobs = jobs_of(home, submission)
    assert {(job.state, job.attempts) for job in jobs.values()} == {("succeeded", 2)}
    assert "goes on at step 2 of 4" in log_of(home, jobs["cup"])

    calm = Home(with_mlflow(tmp_path / "calm"))
    recorded(calm, "spot", "cup", "jug", exact=True)
    lane(calm, MlflowTracking(calm.tracking_uri, calm.artifacts), JobQueue(store_url(calm), submission), 2)
    for job in jobs.values():
        ours, theirs = (load_file(one.bundles / job.id / WEIGHTS) for one in (home, calm))
        assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == set()


class Hangs(JobQueue):
    """The first attempt's third step never ends, or nearly."""

    def progress(self, job, attempt, step, loss):
        if attempt == 1 and step == 3:
            time.sleep(8.0)
        return super().progress(job, attempt, step, loss)


def test_a_lane_that_hangs_ends_itself_and_its_job_is_tried_again_elsewhere(home, tracking, recorded):
    submission = recorded(home, "stuck", "cup", stall_seconds=5)
    ended = []
    lane(home, tracking, Hangs(store_url(home), submission), then=ended.append)
    assert len(ended) == 1
    assert ended[0].startswith("hung for ")
    job = jobs_of(home, submission)["cup"]
    assert (job.state, job.attempts, job.lanes_lost) == ("succeeded", 2, 1)
    assert "while training 1 job" in log_of(home, job)


def test_a_worn_lane_leaves_after_a_job_and_hands_on_the_others(home, tracking, recorded, monkeypatch):
    monkeypatch.setattr(recycle, "RECYCLE_JOBS", 1)
    submission = recorded(home, "worn", "cup", "jug")
    (short,) = [job for job in jobs_of(home, submission).values() if job.spec.subject == "cup"]
    queue = JobQueue(store_url(home), submission)
    assert lane(home, tracking, queue) == "recycled"
    states = [job.state for job in jobs_of(home, submission).values()]
    assert sorted(states) == ["queued", "succeeded"]
    assert lane(home, tracking, queue) in ("drained", "recycled")
    assert {job.state for job in jobs_of(home, submission).values()} == {"succeeded"}
    assert read_bundle(home.bundles / short.id).card.job_id == short.id


class Noted(JobQueue):
    """Notes which jobs were in the lane's hands together."""

    def __init__(self, *rest):
        super().__init__(*rest)
        self.together = []

    def progress(self, job, attempt, step, loss):
        running = [row.spec.subject for row in self._store.jobs(self.submission) if row.state == "running"]
        self.together.append(tuple(sorted(running)))
        return super().progress(job, attempt, step, loss)


def test_after_a_lane_died_its_jobs_are_trained_alone_and_the_others_together(home, tracking, recorded):
    submission = recorded(home, "suspects", "cup", "jug", "pan", "pot")
    store, queue = open_store(home), Noted(store_url(home), submission)
    held = [queue.lease("a", ()).spec.subject, queue.lease("b", ()).spec.subject]
    for dead in "ab":
        store.lose_lane(submission, dead, time.time())
    lane(home, tracking, queue, pack=4)
    for seen in queue.together:
        assert len(seen) == 1 or not set(seen) & set(held)
    assert {job.state for job in jobs_of(home, submission).values()} == {"succeeded"}


class Breaks(JobQueue):
    """A defect of ours at the third step of the first attempt."""

    def progress(self, job, attempt, step, loss):
        if attempt == 1 and step == 3:
            raise KeyError("nobody thought of it")
        return super().progress(job, attempt, step, loss)


def test_a_lane_that_dies_of_a_defect_says_so_in_the_logs_and_rows_of_its_jobs(home, tracking, recorded):
    submission = recorded(home, "defect", "cup", "jug")
    queue = Breaks(store_url(home), submission)
    with pytest.raises(KeyError):
        lane(home, tracking, queue, pack=2)
    for job in jobs_of(home, submission).values():
        assert (job.state, job.kind, job.lanes_lost) == ("queued", "lost", 1)
        assert job.error.startswith("its lane died of KeyError: 'nobody thought of it' (traceback in ")
        assert "raise KeyError" in log_of(home, job)
    assert lane(home, tracking, queue, pack=2) == "drained"
    assert {job.state for job in jobs_of(home, submission).values()} == {"succeeded"}


def test_a_run_that_mlflow_does_not_know_fails_its_job_at_once_and_no_other(home, tracking, recorded):
    submission = recorded(home, "nowhere", "cup", "jug")
    lost = jobs_of(home, submission)["cup"]
    open_store(home).set_run(submission, lost.id, "0" * 32)
    assert lane(home, tracking, JobQueue(store_url(home), submission)) == "drained"
    jobs = jobs_of(home, submission)
    assert (jobs["cup"].state, jobs["cup"].kind, jobs["cup"].attempts) == ("failed", "defect", 1)
    assert f"MLflow at {tracking.uri} does not know run {'0' * 32}" in jobs["cup"].error
    assert "does not know run" in log_of(home, jobs["cup"])
    assert (jobs["jug"].state, jobs["jug"].attempts) == ("succeeded", 1)


def test_a_run_that_goes_while_its_job_trains_fails_the_job_at_its_end_and_not_its_lane(home, tracking, recorded):
    submission = recorded(home, "vanishing", "cup")
    job = jobs_of(home, submission)["cup"]

    class Elsewhere(JobQueue):
        def heartbeat(self, name, attempt):
            raise AssertionError("nothing is published")

    queue = Elsewhere(store_url(home), submission)
    real = tracking.log_bundle
    tracking.log_bundle = lambda _run_id, path: real("0" * 32, path)
    try:
        assert lane(home, tracking, queue) == "drained"
    finally:
        del tracking.log_bundle
    job = jobs_of(home, submission)["cup"]
    assert (job.state, job.kind, job.attempts) == ("failed", "defect", 1)
    assert "does not know run" in job.error


class Lacks(JobQueue):
    """A library that one job wants is not installed."""

    def progress(self, job, attempt, step, loss):
        if step == 2 and self._store.find_job(self.submission, job).spec.subject == "cup":
            raise ModuleNotFoundError("No module named 'bitsandbytes'", name="bitsandbytes")
        return super().progress(job, attempt, step, loss)


def test_what_cannot_be_imported_fails_its_job_at_once_and_no_other(home, tracking, recorded):
    submission = recorded(home, "bare", "cup", "jug")
    assert lane(home, tracking, Lacks(store_url(home), submission), pack=2) == "drained"
    jobs = jobs_of(home, submission)
    assert (jobs["cup"].state, jobs["cup"].kind, jobs["cup"].attempts) == ("failed", "defect", 1)
    assert jobs["cup"].error.startswith("ModuleNotFoundError: No module named 'bitsandbytes'")
    assert jobs["jug"].state == "succeeded"
