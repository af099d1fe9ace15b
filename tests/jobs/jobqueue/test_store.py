"""The store: rows that outlive their process, two writers on one database, and who is found by what."""

import dataclasses
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_rows import SUBMISSION, filled, finish, job, spec

from lorafleet.config import Resources
from lorafleet.errors import AmbiguousError, NotFoundError, UnreachableError
from lorafleet.util.addresses import sqlite_url
from lorafleet_jobs.jobqueue.job_queue import JobQueue, SteadyClock
from lorafleet_jobs.jobqueue.job_state import LEASE_SECONDS, overall
from lorafleet_jobs.jobqueue.policy import TENURE_SECONDS
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import DriverRow, SubmissionRow


def test_another_seed_has_a_run_of_its_own_and_goes_on_from_nothing(database):
    store = filled(database, 1)
    queue = JobQueue(database, SUBMISSION)
    first = queue.lease("a", ())
    assert queue.fail("job0", first.attempt, "non-finite", "loss nan", 1) == "queued"
    assert queue.lease("a", ()) is None, "until the driver has opened a run"
    store.set_run(SUBMISSION, "job0", "another")
    second = queue.lease("a", ())
    assert (second.run_id, second.spec.recipe.seed) == ("another", first.spec.recipe.seed + 1)
    assert (first.checkpoint_name, second.checkpoint_name) == ("job0", "job0-seed1"), "two seeds share no checkpoint"
    assert second.spec.id == "job0"


def test_back_off_doubles_and_a_clock_that_went_back_does_not_keep_a_job_waiting(database):
    store = filled(database, 1)
    for lanes, wait in enumerate([5.0, 10.0, 20.0]):
        now = 10_000.0 * (lanes + 1)
        store.lease(SUBMISSION, "a", now)
        store.lose_lane(SUBMISSION, "a", now)
        assert job(store, "job0").not_before == now + wait
    assert store.lease(SUBMISSION, "a", now) is None
    assert store.lease(SUBMISSION, "a", now - 5_000.0) is not None


def test_the_clock_that_is_set_expires_no_lease(database):
    store, wall, steady = filled(database, 1), [1e9], [50.0]
    queue = JobQueue(database, SUBMISSION, clock=SteadyClock(lambda: wall[0], lambda: steady[0]))
    held = queue.lease("a", ())
    for jump in (7200.0, -90_000.0):
        wall[0] += jump
        steady[0] += 1.0
        assert queue.lease("b", ()) is None
        assert queue.heartbeat("job0", held.attempt)
    assert job(store, "job0").lease_expires == 1e9 + 2.0 + LEASE_SECONDS


def test_a_queue_without_a_clock_of_its_own_does_not_go_by_the_wall_s(tmp_path, monkeypatch):
    url, wall = sqlite_url(tmp_path / "jobs.db"), [time.time()]
    filled(url, 1)
    monkeypatch.setattr(time, "time", lambda: wall[0])
    queue = JobQueue(url, SUBMISSION)
    held = queue.lease("a", ())
    wall[0] += 10 * LEASE_SECONDS
    assert queue.lease("b", ()) is None
    assert queue.heartbeat("job0", held.attempt)


def test_a_lease_whose_answer_was_lost_is_given_again(database):
    store = filled(database, 2)
    first = store.lease(SUBMISSION, "a", now=0.0)
    again = store.lease(SUBMISSION, "a", now=1.0)  # the lane does not know that it holds a job
    assert (again.id, again.attempts, again.lease_expires) == (first.id, first.attempts, 1.0 + LEASE_SECONDS)
    assert store.lease(SUBMISSION, "a", now=2.0, holding=[first.id]).id == "job1"


def test_two_dispatchers_on_one_database_never_hand_out_a_job_twice(database):
    filled(database, 24)

    def lane(name: str) -> list[str]:
        queue, mine = JobQueue(database, SUBMISSION), []
        while (lease := queue.lease(name, mine)) is not None:
            assert queue.progress(lease.spec.id, lease.attempt, 1, 0.5)
            mine.append(lease.spec.id)
        return mine

    with ThreadPoolExecutor(6) as pool:
        leased = [one for lane_jobs in pool.map(lane, "abcdef") for one in lane_jobs]
    assert sorted(leased) == sorted(f"job{n}" for n in range(24))


def test_a_lane_that_starts_again_gives_back_what_it_held_and_only_that(database):
    store = filled(database, 2)
    store.lease(SUBMISSION, "a", now=0.0)
    store.lease(SUBMISSION, "b", now=0.0)
    store.lose_lane(SUBMISSION, "a", now=1.0)
    assert [row.state for row in store.jobs(SUBMISSION)] == ["queued", "running"]
    assert not finish(store, SUBMISSION, "job0", 1, "succeeded", now=2.0, version=1)


def test_submitting_twice_keeps_states_and_learns_where_the_files_lie_now(database):
    store = filled(database, 1)
    row = store.lease(SUBMISSION, "a", now=0.0)
    finish(store, SUBMISSION, "job0", row.attempts, "succeeded", now=1.0, version=4)
    again = SubmissionRow(SUBMISSION, "pets", "toy-playground", "name: pets\n", 5, Resources(lanes=5), priority=9)
    store.add(again, (spec("job0").with_changes(folder="/moved"),), now=9.0)
    store.retry(SUBMISSION, now=9.0)
    (row,) = store.jobs(SUBMISSION)
    assert (row.state, row.version, row.spec.folder, row.priority) == ("succeeded", 4, "/moved", 9)
    assert store.submission(SUBMISSION).lanes == 5


def test_rows_outlive_the_process_and_are_found_by_a_beginning_or_a_name(database):
    filled(database, 2)
    filled(database, 1, "pets-0199999999")
    filled(database, 1, "cups-0000000000")
    store = JobStore(database)
    assert store.submission("cups").id == "cups-0000000000"
    newest = store.submissions()[0].id
    assert store.submission("pets").id == newest, "a name means its newest submission"
    assert store.jobs("cups-0000000000")[0].spec == spec("job0", "cups-0000000000")
    with pytest.raises(AmbiguousError, match=r"could be any of these: .*give more"):
        store.submission("pets-01")
    with pytest.raises(NotFoundError, match=r"no submission 'dogs'; there are: .*cups-0000000000 \(pets\)"):
        store.submission("dogs")
    assert store.find_job(SUBMISSION, "job1").id == "job1"
    with pytest.raises(AmbiguousError, match=r"'job' could be any of these: job0 \(job0\), job1"):
        store.find_job(SUBMISSION, "job")
    with pytest.raises(NotFoundError, match=r"no job 'x' in pets-.*; there are: job0 \(job0\)"):
        store.find_job(SUBMISSION, "x")


def test_any_number_may_make_a_database_at_once(database):
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: JobStore(database), range(6)))
    assert [store.submissions() for store in stores] == [[]] * 6


def test_a_database_of_another_version_is_refused_by_name_and_left_alone(tmp_path):
    path = tmp_path / "jobs.db"
    JobStore(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE jobs DROP COLUMN furthest")
        connection.execute("ALTER TABLE jobs ADD COLUMN colour TEXT")
    before = path.read_bytes()
    with pytest.raises(UnreachableError, match=r"table jobs differs in colour, furthest.*LORAFLEET_HOME"):
        JobStore(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_every_kind_of_column_comes_back_as_it_was(database):
    store = filled(database, 1, max_running=3)
    row = job(store, "job0")
    full = dataclasses.replace(
        row, state="failed", attempts=3, lane="a-0", step=5, loss=0.25, version=7, kind="data", error="why",
        not_before=1.5, pack_limit=2, lease_expires=2.5, started=3.5, stepping_since=4.5,
    )  # fmt: skip
    assert store.change(SUBMISSION, "job0", lambda _: full) == full
    assert JobStore(database).jobs(SUBMISSION) == [full]
    assert store.submission(SUBMISSION).resources == Resources(max_running=3)


def test_a_database_that_cannot_be_opened_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UnreachableError, match=r"cannot be opened \(.*set LORAFLEET_HOME"):
        JobStore(f"sqlite:///{tmp_path / 'file' / 'jobs.db'}")


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["queued", "queued"], "queued"),
        (["succeeded", "queued"], "running"),
        (["running", "failed"], "running"),
        (["succeeded", "failed", "cancelled"], "failed"),
        (["succeeded", "cancelled"], "cancelled"),
        (["succeeded", "stopped"], "succeeded"),
    ],
)
def test_the_state_of_a_submission_follows_from_its_jobs(states, state):
    assert overall(states) == state


def drive(store, submission, cluster, until):
    store.set_cluster(submission, cluster)
    assert store.take_driver(DriverRow(submission, f"token of {submission}", "host", 1, 0.0, until), now=100.0)


def test_a_lane_gives_way_to_a_submission_that_is_driven_on_the_same_cluster_and_to_no_other(database):
    store = filled(database, 3)
    filled(database, 2, "late-0000000000")
    queue = JobQueue(database, SUBMISSION, clock=lambda: 100.0)
    queue.lease("a", ())
    queue.lease("b", ())
    assert not queue.should_yield(TENURE_SECONDS), "nobody drives the other"
    drive(store, SUBMISSION, "ray-1", 110.0)
    for cluster, until, leaves in [("ray-2", 99.0, False), ("ray-1", 99.0, False), ("ray-1", 110.0, True)]:
        drive(store, "late-0000000000", cluster, until)
        assert queue.should_yield(TENURE_SECONDS) == leaves
    for name in ("c", "d"):
        assert store.lease("late-0000000000", name, 100.0)
    assert not queue.should_yield(TENURE_SECONDS), "it has as many"
