"""Which point of a sweep asks to be champion, and what a submitter is told of those that wait."""

from dataclasses import replace

import pytest
from job_rows import spec

from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.submission.champions import chosen, waiting


def rows(count, **changes):
    specs = [spec(f"job{i}").with_changes(**{"adapter": "rex", "promotion": None, **changes}) for i in range(count)]
    return [JobRow("pets-1", each.id, i, each, version=i + 1) for i, each in enumerate(specs)]


def test_a_sweep_s_best_point_asks_and_without_scores_its_first():
    jobs = rows(3)
    assert chosen(jobs, {"job0": (20, 0.4), "job1": (40, 0.1), "job2": (40, 0.3)}) == [jobs[2]]
    assert chosen(jobs, {"job1": (20, 0.5)}) == [jobs[1]]
    assert chosen(jobs[::-1], {}) == [jobs[0]]
    jobs[0] = replace(jobs[0], kind="unchanged")
    assert chosen(jobs, {}) == [jobs[1]], "one that has learned something visible goes first"


def test_each_name_has_its_own_and_jobs_that_settled_it_themselves_have_none():
    jobs = [*rows(2), *rows(1, adapter="tom"), *rows(1, adapter="ben", promotion="first")]
    assert [job.spec.adapter for job in chosen(jobs, {})] == ["rex", "tom"]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_who_waits_is_named_with_what_to_do(count):
    jobs = [replace(row, spec=row.spec.with_changes(adapter=f"rex{i}")) for i, row in enumerate(rows(count))]
    (line,) = waiting(jobs, {f"rex{i}": {"champion": 9, "challenger": i + 1} for i in range(count)})
    assert line.startswith("rex0@1 (champion is @9)")
    assert ("waits as challenger" in line) is (count == 1)
    assert (" and 3 more" in line) is (count == 9)
    assert line.endswith("lorafleet adapters promote rex0@1")
    assert waiting(jobs, {"rex0": {"champion": 1}}) == []
    assert waiting([replace(jobs[0], kind="unchanged")], {"rex0": {"challenger": 1}}) == []
