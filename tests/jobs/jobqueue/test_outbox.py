"""What waits for MLflow: each point once, the first one, in whatever order it is recorded, sent and interrupted."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_rows import SUBMISSION, filled, job
from PIL import Image
from sqlalchemy.exc import OperationalError

from lorafleet.bundle.ports import RunEntry
from lorafleet_jobs.jobqueue import store as stores
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.outbox import Outbox, QueueTracker
from lorafleet_jobs.jobqueue.store import JobStore

RUN = "run0"
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.sampled_from(["loss", "lr"]), st.integers(1, 4), st.floats()),
        st.tuples(st.just("send")),
        st.tuples(st.just("send, and die before it is marked")),
        st.tuples(st.just("another sender sends what was read before")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, at_once=st.sampled_from([1, 2, 64]))
def test_whatever_happens_every_point_is_the_first_that_was_recorded(actions, at_once):
    """What is sent twice is the same in everything, of which MLflow keeps one (`test_sending_again_adds_nothing`)."""
    box, first, arrived, seen = Outbox(JobStore("sqlite://").engine), {}, {}, []

    def send(entries):
        for entry in entries:
            arrived.setdefault((entry.key, entry.step), set()).add((entry.value, entry.milliseconds))

    for now, (action, *values) in enumerate([*actions, ("send",)]):
        if action == "record":
            key, step, value = values
            box.record(SUBMISSION, RUN, [RunEntry("metric", key, step, repr(value))], float(now))
            first.setdefault((key, step), (repr(value), now * 1000))
        elif action.startswith("another"):
            send(seen)
        else:
            seen = box.waiting(RUN, at_once)
            send(seen)
            while action == "send" and seen:
                box.mark_sent(RUN, seen)
                seen = box.waiting(RUN, at_once)
                send(seen)
    assert arrived == {place: {point} for place, point in first.items()}
    assert box.count([SUBMISSION]) == 0
    assert box.runs_waiting([SUBMISSION]) == []


def test_numbers_and_pictures_come_back_as_they_were(database):
    box, image = Outbox(JobStore(database).engine), Image.effect_noise((40, 30), 60).convert("RGB")
    tracker = QueueTracker(lambda entries: box.record(SUBMISSION, RUN, entries, 2.0))
    tracker.metrics(1, {"train/loss": 0.1, "train/d": math.inf, "bad": math.nan})
    tracker.image("val/p00", 1, image)
    *numbers, picture = box.waiting(RUN)
    values = {entry.key: float(entry.value) for entry in numbers}
    assert values.pop("bad") != 0
    assert values == {"train/loss": 0.1, "train/d": math.inf}
    assert (picture.kind, picture.key, picture.step, picture.milliseconds) == ("picture", "val/p00", 1, 2000)
    assert picture.picture.startswith(b"\x89PNG")
    box.mark_sent(RUN, box.waiting(RUN))
    tracker.image("val/p00", 1, image)
    tracker.metrics(1, {"train/loss": 0.2})
    assert box.waiting(RUN) == [], "what was sent is not recorded again"


def test_runs_and_submissions_are_kept_apart(database):
    box = Outbox(JobStore(database).engine)
    for now, (submission, run) in enumerate([("b", "r2"), ("a", "r1"), ("a", "r0")]):
        box.record(submission, run, [RunEntry("metric", "loss", 1, "0.5")], float(now))
    assert box.runs_waiting(["a"]) == ["r1", "r0"], "the one that waited longest first"
    assert box.submissions_waiting() == {"a", "b"}
    assert (box.count(["a"]), box.count(["a", "b"]), box.count([])) == (2, 3, 0)
    box.mark_sent("r1", box.waiting("r1"))
    assert box.runs_waiting(["a", "b"]) == ["r2", "r0"]


def test_the_queue_says_when_an_attempt_begins_and_how_it_ends(database):
    filled(database, 2)
    queue, box = JobQueue(database, SUBMISSION), Outbox(JobStore(database).engine)
    lease = queue.lease("a", ())
    assert queue.record("job0", lease.attempt, [RunEntry("metric", "loss", 1, "0.5")])
    assert queue.finish("job0", lease.attempt, "stopped", None, "its score is below the bar")
    begun, *numbers, ended = box.waiting("run0")
    assert (begun.kind, begun.step) == ("attempt", 1)
    assert sorted(number.key for number in numbers) == ["loss", "perf/train_seconds"]
    assert (ended.kind, ended.step) == ("end", 1)
    end = json.loads(ended.value)
    assert (end["status"], end["tags"]["lorafleet.stopped"]) == ("KILLED", "its score is below the bar"), "no winner"
    assert queue.finish("job0", lease.attempt, "stopped", None, "its score is below the bar"), "said again"
    assert len(box.waiting("run0")) == 4
    assert not queue.record("job0", lease.attempt, [RunEntry("metric", "loss", 2, "0.5")]), "it has ended"
    second = queue.lease("a", ())
    assert queue.fail("job1", second.attempt, "non-finite", "loss nan", 1) == "queued"
    assert json.loads(box.waiting("run1")[-1].value) == {"status": "FAILED", "error": "loss nan", "tags": {}}


def test_within_one_moment_an_attempt_begins_first_and_ends_last(database):
    filled(database, 1)
    queue, box = JobQueue(database, SUBMISSION, clock=lambda: 1.0), Outbox(JobStore(database).engine)
    lease = queue.lease("a", ())
    for step in (2, 1):
        queue.record("job0", lease.attempt, [RunEntry("metric", "loss", step, "0.5")])
    queue.finish("job0", lease.attempt, "stopped", None, "enough")
    assert [(entry.kind, entry.step) for entry in box.waiting("run0")] == [
        ("attempt", 1), ("metric", 0), ("metric", 1), ("metric", 2), ("end", 1)
    ]  # fmt: skip


def test_an_attempt_that_waits_while_its_job_is_cancelled_does_not_leave_its_run_running(database):
    store = filled(database, 1)
    queue, box = JobQueue(database, SUBMISSION), Outbox(store.engine)
    queue.lease("a", ())
    store.cancel(SUBMISSION, 2.0, "job0")
    begun, ended = box.waiting("run0")
    assert (begun.kind, ended.kind, json.loads(ended.value)["status"]) == ("attempt", "end", "KILLED")
    box.mark_sent("run0", [begun, ended])
    assert box.waiting("run0") == []
    store.retry(SUBMISSION, 3.0)
    again = queue.lease("a", ())
    assert [(entry.kind, entry.step) for entry in box.waiting("run0")] == [("attempt", again.attempt)], "it runs again"


def test_an_attempt_that_lost_its_job_records_nothing(database):
    store = filled(database, 1)
    queue, box = JobQueue(database, SUBMISSION, clock=lambda: 1.0), Outbox(store.engine)
    old = queue.lease("a", ())
    store.lose_lane(SUBMISSION, "a", 1.0)
    new = JobQueue(database, SUBMISSION, clock=lambda: 1000.0).lease("b", ())
    assert not queue.record("job0", old.attempt, [RunEntry("metric", "loss", 1, "0.5")])
    assert queue.record("job0", new.attempt, [RunEntry("metric", "loss", 1, "0.25")])
    assert [entry.value for entry in box.waiting("run0") if entry.kind == "metric"] == ["0.25"]


def test_a_run_is_read_in_parts_and_ends_after_the_last(database):
    store = filled(database, 1)
    now = iter(range(1, 100))
    queue, box = JobQueue(database, SUBMISSION, clock=lambda: float(next(now))), Outbox(store.engine)
    lease = queue.lease("a", ())
    for step in (3, 1, 2):
        assert queue.record("job0", lease.attempt, [RunEntry("metric", "loss", step, "0.5")])
    store.cancel(SUBMISSION, 50.0, "job0")
    parts = []
    while part := box.waiting("run0", 2):
        parts.append([(entry.kind, entry.step) for entry in part])
        box.mark_sent("run0", part)
    assert parts == [[("attempt", 1), ("metric", 3)], [("metric", 1), ("metric", 2)]]
    queue, lease = JobQueue(database, SUBMISSION), None
    store.retry(SUBMISSION, 51.0)
    lease = queue.lease("a", ())
    queue.record("job0", lease.attempt, [RunEntry("metric", "loss", 4, "0.5")])
    store.cancel(SUBMISSION, time.time(), "job0")
    assert [entry.kind for entry in box.waiting("run0", 3)] == ["attempt", "metric", "end"]


def test_a_change_and_what_it_tells_happen_together_or_not_at_all(database, monkeypatch):
    store = filled(database, 1)
    queue, box = JobQueue(database, SUBMISSION), Outbox(store.engine)
    lease = queue.lease("a", ())
    box.mark_sent("run0", box.waiting("run0"))

    def full(*_arguments):
        raise OperationalError("INSERT", {}, Exception("the disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(stores, "record", full)  # the second statement of the transaction
        with pytest.raises(OperationalError):
            queue.finish("job0", lease.attempt, "stopped", None, "enough")
        with pytest.raises(OperationalError):
            queue.fail("job0", lease.attempt, "data", "no picture", 1)
    assert job(store, "job0").state == "running"
    assert queue.finish("job0", lease.attempt, "stopped", None, "enough")
    assert [entry.kind for entry in box.waiting("run0")] == ["metric", "end"]


SPEAKER = """
import sys
from lorafleet.bundle.ports import RunEntry
from lorafleet_jobs.jobqueue.outbox import Outbox, QueueTracker
from lorafleet_jobs.jobqueue.store import JobStore
box = Outbox(JobStore(sys.argv[1]).engine)
for step in range(1, 8):
    box.record(sys.argv[2], "run0", [RunEntry("metric", "loss", step, repr(step / 8))], float(step))
    print(step, flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_nothing_that_it_recorded(database):
    box = Outbox(JobStore(database).engine)
    command = [sys.executable, "-c", SPEAKER, database, SUBMISSION]
    speaker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert [speaker.stdout.readline() for _ in range(7)] == [f"{step}\n" for step in range(1, 8)]
    os.kill(speaker.pid, signal.SIGKILL)
    speaker.communicate()
    assert [(entry.step, float(entry.value)) for entry in box.waiting("run0")] == [(n, n / 8) for n in range(1, 8)]
