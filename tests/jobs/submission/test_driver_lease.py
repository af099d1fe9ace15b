"""One driver for a submission at a time, whichever home, process or machine it is in; what becomes of the others."""

import dataclasses
import subprocess
import sys
import time

import psutil
import pytest
from job_rows import SUBMISSION, filled, job

from lorafleet.home import Home
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import load_submission, open_store, store_url
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.submission import driver_lease as leases
from lorafleet_jobs.submission.driver_lease import driver_lease, driver_of, has_driver
from lorafleet_jobs.submission.submit import submit

HOLDER = """
import sys, time
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.submission.driver_lease import driver_lease
with driver_lease(JobStore(sys.argv[1]), sys.argv[2]) as lease:
    print(lease is not None, flush=True)
    time.sleep(600)
"""


def test_one_driver_at_a_time(database):
    store = JobStore(database)
    assert not has_driver(store, SUBMISSION)
    with driver_lease(store, SUBMISSION) as first:
        assert first is not None
        assert has_driver(store, SUBMISSION)
        assert not has_driver(store, "another")
        with driver_lease(JobStore(database), SUBMISSION) as second:
            assert second is None
        assert has_driver(store, SUBMISSION), "the one that was refused gave nothing back"
    assert not has_driver(store, SUBMISSION)


def test_a_driver_that_was_killed_is_found_out_at_once_on_its_own_machine(database):
    store = JobStore(database)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, database, SUBMISSION], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        assert has_driver(store, SUBMISSION)
        assert driver_of(store, SUBMISSION).startswith(f"process {holder.pid} on ")
        with driver_lease(store, SUBMISSION) as lease:
            assert lease is None
    finally:
        holder.kill()
        holder.wait()
    assert not has_driver(store, SUBMISSION)
    with driver_lease(store, SUBMISSION) as lease:
        assert lease is not None


@pytest.mark.parametrize("seconds", [-3600, -1, 1, 3600])
def test_a_clock_that_is_set_makes_no_driver_look_dead(database, monkeypatch, seconds):
    store, boot_time = JobStore(database), psutil.boot_time()
    with driver_lease(store, SUBMISSION) as lease:
        assert lease is not None
        module = sys.modules["psutil._pslinux"] if sys.platform == "linux" else psutil
        monkeypatch.setattr(module, "boot_time", lambda: boot_time + seconds)  # all that setting the clock changes
        assert psutil.boot_time() == boot_time + seconds
        assert has_driver(store, SUBMISSION)
        with driver_lease(store, SUBMISSION) as second:
            assert second is None


def test_of_a_driver_on_another_machine_only_its_lease_tells(database, monkeypatch):
    store, now = JobStore(database), time.time()
    with driver_lease(store, SUBMISSION):
        mine = store.driver(SUBMISSION)
    there = dataclasses.replace(mine, host="elsewhere/", pid=1, expires=now + 60)
    assert store.take_driver(there, now)
    assert has_driver(store, SUBMISSION)
    with driver_lease(store, SUBMISSION) as lease:
        assert lease is None
    assert store.renew_driver(dataclasses.replace(there, expires=now - 1))
    assert not has_driver(store, SUBMISSION)
    with driver_lease(store, SUBMISSION) as lease:
        assert lease is not None
        assert not store.renew_driver(dataclasses.replace(there, expires=now + 60)), "it is another driver's by now"


def test_a_driver_learns_that_another_took_over_and_its_queue_is_empty(database, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    store = filled(database, 2)
    with driver_lease(store, SUBMISSION) as lease:
        queue = JobQueue(database, SUBMISSION, driver=lease.token)
        assert queue.lease("a", ()) is not None
        assert not queue.is_drained()
        store.drop_driver(store.driver(SUBMISSION))  # as when it was silent for too long
        rival = leases.DriverRow(SUBMISSION, "rival", "elsewhere/", 1, 0.0, time.time() + 60)
        assert store.take_driver(rival, time.time())
        deadline = time.monotonic() + 30
        while not lease.is_lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lease.is_lost
        assert queue.lease("a", ("job0",)) is None
        assert queue.is_drained()
    assert store.driver(SUBMISSION) == rival, "what is another's is not given back"
    assert job(store, "job0").state == "running", "nor are its rows touched"


def test_a_driver_with_another_home_on_the_same_database_takes_nothing_away(
    home, tmp_path, monkeypatch, recorded, capsys
):
    submission = recorded(home, "two-homes", "cup", "jug")
    monkeypatch.setenv("LORAFLEET_DATABASE_URL", store_url(home))
    other = Home(tmp_path / "other home")
    assert store_url(other) == store_url(home)
    store = open_store(home)
    leased = JobQueue(store_url(home), submission).lease("a-0", ())
    prepared = prepare(tmp_path / "manifest.yaml")
    assert prepared.plan.submission == submission
    seen = []

    def stop(view):
        seen.append(view)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with driver_lease(store, submission) as lease:
        assert lease is not None
        with pytest.raises(KeyboardInterrupt):
            submit(prepared, other, show=stop)
        assert "is driven by process" in " ".join(capsys.readouterr().err.split())
        row = store.find_job(submission, leased.spec.id)
        assert (row.state, row.attempts, row.lane) == ("running", 1, "a-0")
    assert [view.id for view in seen] == [submission] * 2
    assert load_submission(other, submission).id == submission


def test_an_interrupt_after_another_driver_took_over_cancels_nothing_of_it(home, tmp_path, recorded):
    submission = recorded(home, "taken-over", "cup", steps=2000)
    store = open_store(home)
    rival = leases.DriverRow(submission, "rival", "elsewhere/", 1, 0.0, time.time() + 600)

    def take_over(view):
        if view.jobs[0].step > 0:
            store.drop_driver(store.driver(submission))  # as when this driver was silent for too long
            assert store.take_driver(rival, time.time())
            store.give_back_all(submission, time.time())  # a driver's first act
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(prepare(tmp_path / "manifest.yaml"), home, show=take_over)
    (row,) = store.jobs(submission)
    assert row.state == "queued"
    assert store.driver(submission) == rival
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    assert tracking.client.get_run(row.run_id).info.status in ("SCHEDULED", "RUNNING")
    store.drop_driver(rival)
