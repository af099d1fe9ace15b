"""What lanes say of themselves: the last word counts, and silence means gone."""

import time

import pytest

from lorafleet.config import Resources
from lorafleet_jobs.jobqueue.job_queue import DeviceUse, JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.lane_rows import SILENT_SECONDS, LaneBook
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import SubmissionRow
from lorafleet_jobs.lane.lane_reports import LaneReports


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    JobStore(url).add(SubmissionRow("pets", "pets", "toy-sdxl", "", 2, Resources()), [], time.time())
    return url


def test_the_last_word_of_a_lane_counts_and_a_silent_one_is_gone(url):
    now = 100.0
    queue = JobQueue(url, "pets", clock=lambda: now)
    book = LaneBook(JobStore(url).engine)
    queue.report_lane("a-0", "here", "loading sdxl", DeviceUse("CPU", None, 10, 100))
    queue.report_lane("a-0", "here", "training 4 jobs", DeviceUse("CPU", 50.0, 20, 100))
    now += SILENT_SECONDS / 2
    queue.report_lane("a-1", "there", "waiting for work", DeviceUse("CPU", 0.0, 5, 100))
    said = [(row.lane, row.doing, row.busy) for row in book.living("pets", now)]
    assert said == [("a-0", "training 4 jobs", 50.0), ("a-1", "waiting for work", 0.0)]
    assert [row.lane for row in book.living("pets", now + SILENT_SECONDS * 0.75)] == ["a-1"]
    assert book.living("other", now) == ()


def test_a_lane_reports_until_its_block_ends(url, tmp_path):
    queue, doing = JobQueue(url, "pets"), ["loading"]
    book = LaneBook(JobStore(url).engine)

    def heard() -> str:
        return book.living("pets", time.time())[0].doing

    with LaneReports(queue, LaneConfig("a-0", tmp_path, "", 1, "cpu"), lambda: doing[0], seconds=0.01):
        while not book.living("pets", time.time()):
            time.sleep(0.01)
        assert heard() == "loading"
        doing[0] = "training"
        while heard() != "training":
            time.sleep(0.01)
    (row,) = book.living("pets", time.time())
    assert (row.device, row.total_mib > row.used_mib > 10) == ("CPU", True)
    assert 0 <= row.busy <= 100
    doing[0] = "over"
    time.sleep(0.05)
    assert heard() == "training"
