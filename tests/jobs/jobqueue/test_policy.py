"""Who comes next, which class a failure is of, when a lane hangs or is worn: decisions without a cluster."""

import errno
from dataclasses import replace

import pytest
import torch
from job_rows import spec

from lorafleet.errors import BaseModelError, BundleError, DataError, ManifestError, NonFiniteError, UnreachableError
from lorafleet_jobs.jobqueue.failures import classify
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.policy import TENURE_SECONDS, TRIES, Claim, Death, Deaths, advance, next_jobs, should_yield
from lorafleet_jobs.lane.recycle import RECYCLE_JOBS, should_recycle
from lorafleet_jobs.lane.watchdog import Activity, Watchdog


def row(name: str, position: int, **more) -> JobRow:
    return JobRow("s", name, position, spec("j", "s"), **{"run_id": "r", "steps": 100, **more})


def names(rows):
    return [one.id for one in rows]


def test_higher_priorities_come_first_then_who_came_first():
    rows = [row("a", 0), row("b", 1, priority=5), row("c", 2, priority=5), row("d", 3, state="running")]
    assert names(next_jobs(rows, now=0.0)) == ["b", "c", "a"]


def test_what_waits_or_has_no_run_or_no_room_is_passed_over():
    rows = [row("late", 0, not_before=9.0), row("runless", 1, run_id=None), row("alone", 2, lanes_lost=1)]
    rows += [row("few", 3, pack_limit=2), row("any", 4)]
    assert names(next_jobs(rows, 5.0)) == ["alone", "few", "any"]
    assert names(next_jobs(rows, 5.0, held=1)) == ["few", "any"]
    assert names(next_jobs(rows, 9.0, held=2)) == ["late", "any"]


def test_no_more_jobs_run_at_once_than_the_manifest_allows():
    rows = [row("a", 0, state="running"), row("b", 1, state="running"), row("c", 2)]
    assert names(next_jobs(rows, 0.0, max_running=3)) == ["c"]
    assert next_jobs(rows, 0.0, max_running=2) == []


def claim(lanes, wanted=4, waiting=9, priority=0):
    return Claim("s", priority, waiting, lanes, wanted)


@pytest.mark.parametrize(
    ("mine", "other", "leaves"),
    [
        (claim(4), claim(0), True),  # equal, and it has none
        (claim(4), claim(2), True),  # equal, and it has two fewer
        (claim(3), claim(2), False),  # giving one up would only turn it round
        (claim(4), claim(0, waiting=0), False),  # nothing waits there
        (claim(4), claim(2, wanted=2), False),  # it has what it asked for
        (claim(4, priority=1), claim(0), False),
        (claim(1), claim(2, priority=1), True),
    ],
)
def test_a_lane_leaves_its_place_to_a_submission_that_is_short_of_lanes(mine, other, leaves):
    assert should_yield(mine, [other], TENURE_SECONDS) == leaves


def test_a_lane_keeps_its_place_for_a_while_beside_equals_but_not_beside_a_higher_priority():
    assert not should_yield(claim(4), [claim(0)], TENURE_SECONDS - 1)
    assert should_yield(claim(4), [claim(0, priority=1)], 0.0)


def test_submissions_that_take_turns_come_to_equal_shares():
    lanes = {"a": 6, "b": 0}
    for _ in range(20):
        for mine, other in (("a", "b"), ("b", "a")):
            if should_yield(claim(lanes[mine], 6), [claim(lanes[other], 6)], TENURE_SECONDS):
                lanes[mine] -= 1
                lanes[other] += 1
    assert lanes == {"a": 3, "b": 3}


def test_only_what_stays_done_is_an_advance():
    before = [row("a", 0, state="running", step=50), row("b", 1)]
    died = [row("a", 0, furthest=50), row("b", 1)]
    assert advance(before) < advance(died) < advance([row("a", 0, state="failed", furthest=50), row("b", 1)])
    assert advance(died) == advance([row("a", 0, state="running", step=20, furthest=50), row("b", 1)])


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (DataError("0.png is gone"), "data"),
        (ManifestError("rank"), "recipe"),
        (BaseModelError("no base"), "recipe"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory"),
        (MemoryError(), "memory"),
        (NonFiniteError("loss nan"), "non-finite"),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), "lost"),
        (RuntimeError("CUDA error: an illegal memory access"), "lost"),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"), "lost"),
        (torch.distributed.DistBackendError("NCCL timed out"), "lost"),
        (UnreachableError("MLflow does not answer"), "publish"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (PermissionError(errno.EACCES, "Permission denied"), "storage"),
        (FileNotFoundError(errno.ENOENT, "gone"), "defect"),
        (BundleError("altered"), "defect"),
        (ValueError("shapes"), "defect"),
    ],
)
def test_every_problem_has_a_class(problem, kind):
    assert classify(problem) == kind


def test_a_lane_hangs_when_nothing_moves_for_too_long_however_long_its_steps_take():
    now = [0.0]
    activity = Activity(limit=10.0, clock=lambda: now[0])
    for at in (5.0, 14.0, 24.0):
        now[0] = at
        assert activity.stalled() is None
        activity.begin("training 3 jobs")
    now[0] = 34.1
    assert activity.stalled() == "hung for 10 s while training 3 jobs"


def test_the_watchdog_says_why_and_then_ends_the_process_even_if_nobody_listens():
    said = []

    def last_words(reason):
        said.append(f"words: {reason}")
        raise RuntimeError("the queue is gone")

    watchdog = Watchdog(Activity(limit=-1.0), last_words, lambda reason: said.append(f"end: {reason}"))
    watchdog._thread.join(30)
    assert [one.partition(":")[0] for one in said] == ["words", "end"]


GIB = 2**30


@pytest.mark.parametrize(
    ("jobs", "now", "settled", "worn"),
    [
        (1, 8 * GIB, 8 * GIB, False),
        (RECYCLE_JOBS, 8 * GIB, 8 * GIB, True),
        (9, 11 * GIB, 8 * GIB, False),  # less than half as much again
        (9, 13 * GIB, 8 * GIB, True),
        (9, 2 * GIB, 1 * GIB, False),  # twice as much, but of little
    ],
)
def test_a_lane_is_worn_after_many_jobs_or_when_it_has_grown(jobs, now, settled, worn):
    assert should_recycle(jobs, now, settled) == worn


def lives(*deaths: Death) -> int | None:
    """How many of a lane's deaths it took to give it up; None if they were not enough."""
    seen = Deaths()
    return next((number for number, death in enumerate(deaths, 1) if seen.are_enough(death)), None)


CRASH = Death("ActorDiedError", recurs=False, raised=False, leased=True, further=False)
RAISED = Death("KeyError: 'x'", recurs=False, raised=True, leased=False, further=False)


def test_a_lane_is_given_up_when_two_jobs_that_kill_it_would_be_in_quarantine():
    assert lives(*[CRASH] * (TRIES + 1)) == TRIES
    progress = replace(CRASH, further=True)
    assert lives(*([CRASH] * (TRIES - 1) + [progress]) * 3) is None


def test_a_cause_that_will_be_the_same_every_time_takes_fewer():
    assert lives(*[replace(RAISED, recurs=True)] * 5) == 2
    assert lives(*[RAISED] * 5) == 3
    others = [replace(RAISED, cause=f"OSError: {number}") for number in range(TRIES)]
    assert lives(*others) == TRIES
    assert lives(*[replace(RAISED, leased=True)] * (TRIES - 1)) is None, "a job may be to blame"
    assert lives(*[replace(RAISED, raised=False)] * (TRIES - 1)) is None, "its process was killed"
