"""Calls and writes that break half-way: nothing that was said is lost for it, and nothing is there twice."""

import io
import uuid

import pytest
from mlflow.exceptions import MlflowException

from lorafleet.tracking.entries import numbers
from lorafleet.tracking.journal import Journal


class NearlyFull(io.FileIO):
    """A file on a disk that takes half of what is written."""

    def write(self, data):
        return super().write(data[: len(data) // 2])


def test_half_a_line_on_a_full_disk_spoils_no_line_after_it(tmp_path):
    journal = Journal(tmp_path)
    whole, journal._file = journal._file, NearlyFull(journal._file.name, "ab")
    with pytest.raises(OSError, match="No space left"):
        journal.keep(numbers(1, {"loss": 0.5}))
    journal._file = whole
    journal.keep(numbers(2, {"loss": 0.25}))
    journal.close()
    assert [entry.step for entry in Journal(tmp_path).adopt()] == [2]


@pytest.mark.parametrize("arrives", [False, True], ids=["lost", "answer lost"])
def test_a_call_that_failed_half_way_is_made_again_and_leaves_each_step_once(tracking, monkeypatch, arrives):
    """Nobody knows whether it arrived before the connection broke."""
    run_id = tracking.start_submission("broken", uuid.uuid4().hex[:16], {}, "")
    tracking.resume(run_id, attempt=1)
    tracker, failures = tracking.job_tracker(run_id), []
    assert tracker.flush()
    log_batch = tracking.client.log_batch

    def breaks_once(*arguments, **more):
        if failures or arrives:
            log_batch(*arguments, **more)
        if not failures:
            failures.append(arguments)
            raise MlflowException("the connection broke")

    monkeypatch.setattr(tracking.client, "log_batch", breaks_once)
    for step in (1, 2, 3):
        tracker.metrics(step, {"train/loss": step / 8})
    while not tracker.flush():
        assert failures
    assert [one.step for one in tracking.client.get_metric_history(run_id, "train/loss")] == [1, 2, 3]
