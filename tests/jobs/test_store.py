"""Job rows: whoever holds a job holds it alone, in order, and nobody speaks for an attempt that is over."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lorafleet.config import Recipe, Resources, Validation
from lorafleet.errors import NotFoundError
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.rows import LEASE_SECONDS, MAX_ATTEMPTS, overall
from lorafleet_jobs.store import JobStore, SubmissionRow

SUBMISSION = "pets-0123456789"


def spec(job: str, submission: str = SUBMISSION) -> JobSpec:
    return JobSpec(
        id=job, submission=submission, subject=job, adapter=job, base="toy-playground", folder="/photos", images=(),
        class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(), steps=7, validation=Validation(),
        dataset_fingerprint="f",
    )  # fmt: skip


def filled(url: str, count: int, submission: str = SUBMISSION) -> JobStore:
    store = JobStore(url)
    row = SubmissionRow(submission, "pets", "toy-playground", "name: pets\n", 2, Resources())
    store.add(row, tuple(spec(f"job{n}", submission) for n in range(count)), now=0.0)
    return store


def job(store: JobStore, name: str):
    return next(row for row in store.jobs(SUBMISSION) if row.id == name)


class Lanes(RuleBasedStateMachine):
    """Lanes that lease, go silent, come back late and end their jobs; the model is a dict of who holds what."""

    def __init__(self):
        super().__init__()
        self.given: list[tuple[str, int]] = []

    @initialize(count=st.integers(1, 3))
    def start(self, count):
        self.store, self.now = filled("sqlite://", count), 100.0
        self.names = [f"job{n}" for n in range(count)]
        self.state = dict.fromkeys(self.names, "queued")
        self.attempts = dict.fromkeys(self.names, 0)
        self.limit = dict.fromkeys(self.names, MAX_ATTEMPTS)
        self.expires = dict.fromkeys(self.names, 0.0)

    @rule(seconds=st.sampled_from([1.0, LEASE_SECONDS / 2, LEASE_SECONDS]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(lane=st.sampled_from(["a", "b", "c"]), after=st.sampled_from([0.0, LEASE_SECONDS]))
    def lease(self, lane, after):
        self.now += after
        expected = None
        for name in self.names:
            expired = self.state[name] == "running" and self.expires[name] <= self.now
            if self.state[name] != "queued" and not expired:
                continue
            if self.attempts[name] == self.limit[name]:
                self.state[name] = "failed"
                continue
            expected = name
            break
        row = self.store.lease(SUBMISSION, lane, self.now)
        assert (row.id if row else None) == expected, "first in, first out"
        if row is not None:
            self.attempts[expected] += 1
            self.state[expected], self.expires[expected] = "running", self.now + LEASE_SECONDS
            assert (row.attempts, row.lane, row.step) == (self.attempts[expected], lane, 0)
            self.given.append((expected, row.attempts))

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def heartbeat(self, data):
        name, attempt = data.draw(st.sampled_from(self.given))
        answer = self.store.heartbeat(SUBMISSION, name, attempt, self.now)
        assert answer == self.is_current(name, attempt)
        if answer:
            self.expires[name] = self.now + LEASE_SECONDS

    @precondition(lambda self: self.given)
    @rule(data=st.data(), step=st.integers(1, 7))
    def progress(self, data, step):
        name, attempt = data.draw(st.sampled_from(self.given))
        answer = self.store.progress(SUBMISSION, name, attempt, step, 0.5, self.now)
        assert answer == self.is_current(name, attempt)
        if answer:
            self.expires[name] = self.now + LEASE_SECONDS
            assert job(self.store, name).step == step

    @precondition(lambda self: self.given)
    @rule(data=st.data(), state=st.sampled_from(["succeeded", "failed"]))
    def finish(self, data, state):
        name, attempt = data.draw(st.sampled_from(self.given))
        answer = self.store.finish(SUBMISSION, name, attempt, state, self.now, version=1, error="why")
        assert answer == self.is_current(name, attempt)
        if answer:
            self.state[name] = state

    @rule()
    def submit_again(self):
        self.store.requeue(SUBMISSION, self.now)
        for name in self.names:
            if self.state[name] in ("failed", "cancelled"):
                self.state[name], self.limit[name] = "queued", self.attempts[name] + MAX_ATTEMPTS

    @rule()
    def cancel(self):
        self.store.end(SUBMISSION, "cancelled", None, self.now)
        for name in self.names:
            if self.state[name] in ("queued", "running"):
                self.state[name] = "cancelled"

    @invariant()
    def rows_are_as_the_model_says(self):
        rows = self.store.jobs(SUBMISSION)
        assert [row.id for row in rows] == self.names
        assert {row.id: (row.state, row.attempts) for row in rows} == {
            name: (self.state[name], self.attempts[name]) for name in self.names
        }
        assert self.store.is_drained(SUBMISSION) == (not {"queued", "running"} & set(self.state.values()))

    def is_current(self, name, attempt):
        return self.state[name] == "running" and self.attempts[name] == attempt


TestLanes = Lanes.TestCase
TestLanes.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


def test_many_lanes_at_once_never_share_a_job(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    filled(url, 24)

    def lane(name: str) -> list[str]:
        store, mine = JobStore(url), []
        while (row := store.lease(SUBMISSION, name, now=1.0)) is not None:
            mine.append(row.id)
        return mine

    with ThreadPoolExecutor(6) as pool:
        leased = [one for lane_jobs in pool.map(lane, "abcdef") for one in lane_jobs]
    assert sorted(leased) == sorted(f"job{n}" for n in range(24))


def test_a_job_whose_lanes_keep_dying_fails_with_a_reason_and_the_next_is_leased():
    store = filled("sqlite://", 2)
    for attempt in range(MAX_ATTEMPTS):
        assert store.lease(SUBMISSION, "a", now=attempt * LEASE_SECONDS).id == "job0"
    assert store.lease(SUBMISSION, "a", now=MAX_ATTEMPTS * LEASE_SECONDS).id == "job1"
    poison = job(store, "job0")
    assert poison.state == "failed"
    assert "3 attempts" in poison.error


def test_an_attempt_that_is_over_can_say_nothing_more():
    store = filled("sqlite://", 1)
    old = store.lease(SUBMISSION, "a", now=0.0)
    new = store.lease(SUBMISSION, "b", now=LEASE_SECONDS)
    assert (old.attempts, new.attempts) == (1, 2)
    assert not store.heartbeat(SUBMISSION, "job0", 1, now=61.0)
    assert not store.progress(SUBMISSION, "job0", 1, 7, 0.1, now=61.0)
    assert not store.finish(SUBMISSION, "job0", 1, "succeeded", now=61.0, version=1)
    assert store.finish(SUBMISSION, "job0", 2, "failed", now=61.0, error="why")
    assert (job(store, "job0").state, job(store, "job0").error) == ("failed", "why")


def test_a_lane_that_starts_again_gives_back_what_it_held_and_only_that():
    store = filled("sqlite://", 2)
    store.lease(SUBMISSION, "a", now=0.0)
    store.lease(SUBMISSION, "b", now=0.0)
    store.release(SUBMISSION, now=1.0, lane="a")
    assert [row.state for row in store.jobs(SUBMISSION)] == ["queued", "running"]
    assert not store.finish(SUBMISSION, "job0", 1, "succeeded", now=2.0, version=1)


def test_submitting_twice_keeps_states_and_learns_where_the_files_lie_now():
    store = filled("sqlite://", 1)
    row = store.lease(SUBMISSION, "a", now=0.0)
    store.finish(SUBMISSION, "job0", row.attempts, "succeeded", now=1.0, version=4)
    again = SubmissionRow(SUBMISSION, "pets", "toy-playground", "name: pets\n", 5, Resources(lanes=5))
    store.add(again, (spec("job0").with_changes(folder="/moved"),), now=9.0)
    store.requeue(SUBMISSION, now=9.0)
    (row,) = store.jobs(SUBMISSION)
    assert (row.state, row.version, row.spec.folder) == ("succeeded", 4, "/moved")
    assert store.submission(SUBMISSION).lanes == 5


def test_rows_outlive_the_process_and_submissions_are_found_by_a_beginning(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    filled(url, 1)
    filled(url, 1, "pets-0199999999")
    filled(url, 1, "cups-0000000000")
    store = JobStore(url)
    assert store.submission("cups").id == "cups-0000000000"
    assert store.jobs("cups-0000000000")[0].spec == spec("job0", "cups-0000000000")
    with pytest.raises(NotFoundError, match=r"fits several: .*give more"):
        store.submission("pets-01")
    with pytest.raises(NotFoundError, match=r"no submission 'dogs'; there are: .*cups-0000000000 \(pets\)"):
        store.submission("dogs")


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["queued", "queued"], "queued"),
        (["succeeded", "queued"], "running"),
        (["running", "failed"], "running"),
        (["succeeded", "failed", "cancelled"], "failed"),
        (["succeeded", "cancelled"], "cancelled"),
        (["succeeded", "succeeded"], "succeeded"),
    ],
)
def test_the_state_of_a_submission_follows_from_its_jobs(states, state):
    assert overall(states) == state
