"""What may happen to a job, in whatever order: one holder an attempt, first in first out, and every job ends."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from job_rows import SUBMISSION, fail, filled, finish, heartbeat, job, progress

from lorafleet_jobs.jobqueue import job_state as rows
from lorafleet_jobs.jobqueue.job_state import BACKOFF_MOST, ENDED, LEASE_SECONDS, QUARANTINE_LANES, SEEDS, WAITS

KINDS = ["data", "recipe", "memory", "non-finite", "lost", "stalled", "publish", "storage", "defect"]


class Lanes(RuleBasedStateMachine):
    """Lanes that lease, go silent, die, come back late and end their jobs in every way there is.

    The model knows no transition: it remembers who was told to hold what, and checks what must hold whatever happens.
    """

    @initialize(count=st.integers(1, 4), max_running=st.sampled_from([None, 1, 2]))
    def start(self, count, max_running):
        self.store, self.now, self.max_running = filled("sqlite://", count), 100.0, max_running
        self.given: list[tuple[str, int]] = []  # every lease there ever was
        self.lane_of: dict[tuple[str, int], str] = {}
        self.over: set[tuple[str, int]] = set()  # attempts that are known to be over

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS / 2, LEASE_SECONDS, BACKOFF_MOST]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(lane=st.sampled_from(["a", "b", "c"]), forgetful=st.booleans())
    def lease(self, lane, forgetful):
        before = {row.id: row for row in self.store.jobs(SUBMISSION)}
        mine = [row.id for row in before.values() if row.state == "running" and row.lane == lane]
        row = self.store.lease(SUBMISSION, lane, self.now, () if forgetful else mine, self.max_running)
        if row is None:
            return
        attempt = (row.id, row.attempts)
        if forgetful and row.id in mine:
            assert self.lane_of[attempt] == lane, "the same lease, told again"
            return
        assert attempt not in self.lane_of, "an attempt has one holder"
        earlier = [other for other in before.values() if other.position < row.position and other.state == "queued"]
        waits = [
            o for o in earlier if (o.not_before or 0) > self.now or o.run_id is None or o.pack_limit or o.lanes_lost
        ]
        assert earlier == waits, "first in, first out, but for those that wait"
        self.over |= {one for one in self.given if one[0] == row.id}
        self.given.append(attempt)
        self.lane_of[attempt] = lane
        running = [one for one in self.store.jobs(SUBMISSION) if one.state == "running"]
        assert self.max_running is None or len(running) <= self.max_running

    @precondition(lambda self: self.given)
    @rule(data=st.data(), step=st.integers(1, 7), kind=st.sampled_from(KINDS), packed=st.integers(1, 4))
    def say(self, data, step, kind, packed):
        (name, attempt), now = data.draw(st.sampled_from(self.given)), self.now
        said = data.draw(st.sampled_from(["heartbeat", "progress", "succeeded", "stopped", "fail"]))
        before = job(self.store, name)
        if said == "heartbeat":
            answer = heartbeat(self.store, SUBMISSION, name, attempt, now)
        elif said == "progress":
            answer = progress(self.store, SUBMISSION, name, attempt, step, 0.5, now)
        elif said == "fail":
            answer = fail(self.store, SUBMISSION, name, attempt, kind, "why", now, packed) is not None
        else:
            answer = finish(self.store, SUBMISSION, name, attempt, said, now, version=1)
        repeats = (before.state, before.attempts) == (said, attempt)
        assert answer == ((before.state == "running" and before.attempts == attempt) or repeats)
        if (name, attempt) in self.over:
            assert not answer or repeats
            assert job(self.store, name) == before
        if answer and said not in ("heartbeat", "progress"):
            self.over.add((name, attempt))

    @rule(lane=st.sampled_from(["a", "b", "c"]))
    def lane_dies(self, lane):
        for row in self.store.lose_lane(SUBMISSION, lane, self.now):
            assert row.lanes_lost >= 1
            self.over.add((row.id, row.attempts))

    @rule()
    def runs_are_opened(self):
        for row in self.store.jobs(SUBMISSION):
            if row.run_id is None:
                assert row.seed_shift, "only another seed needs another run"
                self.store.set_run(SUBMISSION, row.id, f"{row.id}-{row.seed_shift}")

    @rule(what=st.sampled_from(["retry", "cancel", "release"]), name=st.sampled_from([None, "job0"]))
    def user(self, what, name):
        before = {row.id: row for row in self.store.jobs(SUBMISSION)}
        if what == "retry":
            for row in self.store.retry(SUBMISSION, self.now, name):
                assert before[row.id].state in ("failed", "cancelled")
                assert (row.state, row.kind, row.lanes_lost) == ("queued", None, 0)
        elif what == "cancel":
            for row in self.store.cancel(SUBMISSION, self.now, name):
                assert before[row.id].state not in ENDED
                assert (row.state, row.kind) == ("cancelled", "cancelled")
        else:
            self.store.give_back_all(SUBMISSION, self.now)
            assert not any(row.state == "running" for row in self.store.jobs(SUBMISSION))
        self.over |= {one for one in self.given if job(self.store, one[0]).state != "running"}

    @invariant()
    def rows_make_sense(self):
        rows = self.store.jobs(SUBMISSION)
        assert self.store.is_drained(SUBMISSION) == all(row.state in ENDED for row in rows)
        for row in rows:
            assert (row.lease_expires is not None) == (row.state == "running")
            assert row.lanes_lost <= QUARANTINE_LANES
            assert row.retries <= WAITS
            if row.state == "failed":
                assert row.kind
                assert row.error

    def teardown(self):
        """Whatever has happened, lanes that die on every job bring all of them to an end."""
        if not hasattr(self, "store"):
            return
        for _ in range(4 * 2 * (QUARANTINE_LANES + 1)):
            self.now += BACKOFF_MOST + LEASE_SECONDS
            self.runs_are_opened()
            self.store.lease(SUBMISSION, "z", self.now)
            self.store.lose_lane(SUBMISSION, "z", self.now)
        assert self.store.is_drained(SUBMISSION)


TestLanes = Lanes.TestCase
TestLanes.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_fails_the_same_way_each_time_ends_with_its_class_and_reason(kind):
    store, now, attempts = filled("sqlite://", 1), 0.0, 0
    packed = 4
    while not store.is_drained(SUBMISSION):
        now += BACKOFF_MOST
        store.set_run(SUBMISSION, "job0", "run")
        row = store.lease(SUBMISSION, "a", now)
        packed = min(packed, row.pack_limit or packed)
        fail(store, SUBMISSION, "job0", row.attempts, kind, "why it failed", now, packed)
        attempts += 1
    row = job(store, "job0")
    assert (row.state, row.kind) == ("failed", kind)
    assert "why it failed" in row.error
    once = {"memory": 3, "non-finite": SEEDS, "publish": WAITS + 1, "storage": WAITS + 1}
    once |= {"lost": QUARANTINE_LANES, "stalled": QUARANTINE_LANES}
    assert attempts == once.get(kind, 1)


def test_a_job_without_memory_is_tried_among_half_as_many_and_waits_for_a_lane_with_room():
    store = filled("sqlite://", 2)
    row = store.lease(SUBMISSION, "a", now=0.0)
    fail(store, SUBMISSION, "job0", row.attempts, "memory", "out of memory", 1.0, packed=5)
    assert job(store, "job0").pack_limit == 2
    assert store.lease(SUBMISSION, "a", 2.0, holding=("x", "y")).id == "job1", "passed over by a lane that is full"
    assert store.lease(SUBMISSION, "b", 2.0, holding=("x",)).id == "job0"


def test_a_job_whose_lanes_die_is_trained_alone_and_comes_into_quarantine():
    store, now = filled("sqlite://", 2), 0.0
    for died in range(QUARANTINE_LANES):
        now += BACKOFF_MOST
        assert store.lease(SUBMISSION, "a", now).id == "job0"
        assert died == 0 or rows.alone_until(job(store, "job0")) > 0
        store.lose_lane(SUBMISSION, "a", now)
    poison = job(store, "job0")
    assert (poison.state, poison.kind) == ("failed", "lost")
    assert f"quarantine: {QUARANTINE_LANES} lanes died on it" in poison.error
    assert store.lease(SUBMISSION, "a", now + 1).id == "job1"


def test_a_job_that_gets_further_each_time_outlives_any_number_of_lanes():
    store, now = filled("sqlite://", 1), 0.0
    for step in range(1, 2 * QUARANTINE_LANES):
        now += BACKOFF_MOST
        row = store.lease(SUBMISSION, "a", now)
        progress(store, SUBMISSION, "job0", row.attempts, step, 0.1, now)
        store.lose_lane(SUBMISSION, "a", now)
    assert (job(store, "job0").state, job(store, "job0").lanes_lost) == ("queued", 1)


def test_a_job_that_is_tried_again_by_hand_has_a_clean_record_and_a_new_attempt():
    store, now = filled("sqlite://", 1), 0.0
    progress(store, SUBMISSION, "job0", store.lease(SUBMISSION, "a", now).attempts, 3, 0.1, now)
    fail(store, SUBMISSION, "job0", 1, "memory", "out of memory", now, packed=2)
    for _ in range(QUARANTINE_LANES):
        now += BACKOFF_MOST
        row = store.lease(SUBMISSION, "a", now)
        progress(store, SUBMISSION, "job0", row.attempts, 3, 0.1, now)
        store.lose_lane(SUBMISSION, "a", now)
    ended = job(store, "job0")
    assert (ended.state, ended.pack_limit, ended.furthest) == ("failed", 1, 3)
    (again,) = store.retry(SUBMISSION, now)
    assert (again.state, again.kind, again.error, again.attempts) == ("queued", None, None, ended.attempts)
    assert (again.pack_limit, again.lanes_lost, again.furthest, rows.alone_until(again)) == (None, 0, 0, 0)
