"""The thread that sends: how long it waits while MLflow is away."""

import threading

from job_rows import SUBMISSION

from lorafleet.bundle.ports import RunEntry
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.jobqueue.outbox import Outbox
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.submission.outbox_sender import LINGER_SECONDS, LONGEST_PAUSE_SECONDS, OutboxSender


def test_pauses_grow_to_a_bound_and_end_with_the_outage(tmp_path):
    box, pauses = Outbox(JobStore("sqlite://").engine), []
    box.record(SUBMISSION, "0" * 32, [RunEntry("metric", "train/loss", 1, "0.5")], 1.0)
    enough = threading.Event()

    def sleep(stopped, seconds):
        pauses.append(seconds)
        if len(pauses) > 8:
            enough.set()
        return enough.is_set()

    sender = OutboxSender(box, MlflowTracking("http://127.0.0.1:1", tmp_path), SUBMISSION, sleep)
    assert enough.wait(60)
    sender.stop()
    assert pauses[:4] == [LINGER_SECONDS, 2 * LINGER_SECONDS, 4 * LINGER_SECONDS, 8 * LINGER_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    assert box.count([SUBMISSION]) == 1
