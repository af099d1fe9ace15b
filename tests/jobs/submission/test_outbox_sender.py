"""The thread that sends: how long it waits while MLflow is away, and what it outlives."""

import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from job_rows import SUBMISSION
from PIL import Image

from lorafleet.bundle.ports import RunEntry
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.jobqueue.outbox import Outbox, QueueTracker
from lorafleet_jobs.jobqueue.status import open_store
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


def test_a_place_for_pictures_that_cannot_be_written_delays_and_ends_nothing(home, tracking, recorded):
    submission = recorded(home, "no-room", "cup")
    store = open_store(home)
    box, run_id = Outbox(store.engine), store.jobs(submission)[0].run_id
    QueueTracker(lambda entries: box.record(submission, run_id, entries, 1.0)).image("val", 1, Image.new("RGB", (8, 8)))
    folder = Path(urlsplit(tracking.client.get_run(run_id).info.artifact_uri).path) / "images"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    rounds = threading.Semaphore(0)

    def sleep(stopped, seconds):
        rounds.release()
        return stopped.wait(0.01)

    sender = OutboxSender(box, tracking, submission, sleep)
    try:
        for _ in range(3):
            assert rounds.acquire(timeout=60)
        assert box.count([submission]) == 1
        folder.unlink()
        deadline = time.monotonic() + 60
        while box.count([submission]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert box.count([submission]) == 0
        assert len(list(folder.iterdir())) == 2
    finally:
        sender.stop()
