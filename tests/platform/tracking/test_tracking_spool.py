"""What MLflow has not taken, on disk: it outlives its process, belongs to one process at a time, and is sent once."""

import logging
import os
import signal
import subprocess
import sys
import uuid

import pytest
from PIL import Image

from lorafleet.tracking import MlflowTracking
from lorafleet.tracking.entries import Numbers, numbers, picture
from lorafleet.tracking.journal import Journal, left_in
from lorafleet.tracking.points import Points
from lorafleet.tracking.sender import LINGER_SECONDS, LONGEST_PAUSE_SECONDS, Sender
from lorafleet.tracking.tracker import IN_MEMORY_AT_MOST, MlflowJobTracker


@pytest.fixture
def run_id(tracking):
    return tracking.start_submission("spooled", uuid.uuid4().hex[:16], {}, "")


@pytest.fixture
def nowhere(tmp_path):
    """Tracking at an address where nobody listens."""
    return MlflowTracking("http://127.0.0.1:1", tmp_path)


def steps(tracking, run_id, key="train/loss"):
    return [one.step for one in tracking.client.get_metric_history(run_id, key)]


def test_what_is_kept_is_read_back_and_a_torn_last_line_is_passed_over(tmp_path):
    journal, image = Journal(tmp_path / "run"), Image.effect_noise((40, 30), 60).convert("RGB")
    said = [numbers(1, {"train/loss": 0.25, "train/d": float("inf")}), picture("val/p00", 1, image), numbers(2, {})]
    for entry in said:
        journal.keep(entry)
    assert Journal(tmp_path / "run").adopt() == [], "its process lives"
    journal.close()
    (file,) = [path for path in (tmp_path / "run").glob("*.jsonl") if path.stat().st_size]
    with file.open("a") as stream:
        stream.write('{"step": 3, "valu')
    first, second, third = Journal(tmp_path / "run").adopt()
    assert (first, third) == (said[0], said[2])
    assert (second.key, second.step, second.name) == ("val/p00", 1, said[1].name)
    assert second.load().tobytes() == image.tobytes()


def test_a_journal_has_one_holder_and_its_folder_goes_with_the_last_entry(tmp_path):
    folder = tmp_path / "run"
    dead = Journal(folder)
    dead.keep(numbers(1, {"a": 1.0}))
    dead.keep(picture("val/p00", 1, Image.new("RGB", (8, 8))))
    dead.close()
    heir, rival = Journal(folder), Journal(folder)
    left = heir.adopt()
    assert [entry.step for entry in left] == [1, 1]
    assert rival.adopt() == []
    assert left_in(folder) == 2
    for entry in left:
        heir.sent(entry)
    heir.clear()
    assert left_in(folder) == 0
    heir.close()
    assert folder.is_dir(), "the rival is still there"
    rival.close()
    assert not folder.exists()


def test_what_an_older_process_says_is_overheard_and_a_newer_one_is_not_adopted(tmp_path):
    older, newer = Journal(tmp_path), Journal(tmp_path)
    first, second = numbers(1, {"a": 1.0}), numbers(2, {"a": 2.0})
    older.keep(first)
    newer.keep(second)
    assert (newer.overheard(), older.overheard()) == ([first], [])
    newer.close()
    assert older.adopt() == [], "whoever comes next has it; an old process must not speak for a new one"
    newest = Journal(tmp_path)
    assert newest.adopt() == [second]
    assert newest.overheard() == [first], "its own it need not overhear"


def test_what_is_said_again_is_sent_as_it_was_said_first():
    points, image = Points(), Image.new("RGB", (8, 8))
    points.add(Numbers(1, {"a": 1.0, "b": 1.0}, 100))
    seen = picture("val/p00", 3, image)
    points.overhear([Numbers(2, {"a": 2.0}, 200), Numbers(2, {"a": 2.5}, 250), seen])
    assert points.missing(Numbers(1, {"a": 1.5, "b": 1.5}, 300)) == []
    assert points.missing(Numbers(1, {"a": 1.5, "c": 1.5}, 300)) == [Numbers(1, {"c": 1.5}, 300)]
    parts = points.missing(Numbers(2, {"a": 3.0, "b": 3.0}, 300))
    assert sorted(parts, key=lambda part: part.milliseconds) == [
        Numbers(2, {"a": 2.0}, 200), Numbers(2, {"b": 3.0}, 300),
    ]  # fmt: skip
    assert [part.name for part in points.missing(picture("val/p00", 3, image))] == [seen.name]


def test_processes_take_turns_and_know_when_another_has_sent(tmp_path):
    one, two = Journal(tmp_path), Journal(tmp_path)
    with one.turn() as first, two.turn() as refused:
        assert (first.mine, first.others_sent, refused.mine) == (True, False, False)
    with one.turn() as again:
        assert (again.mine, again.others_sent) == (True, False)
    with two.turn() as other:
        assert (other.mine, other.others_sent) == (True, True)
    with one.turn() as back:
        assert back.others_sent


def test_a_disk_that_is_full_costs_neither_numbers_nor_training(tracking, run_id, tmp_path, caplog):
    tracker = tracking.job_tracker(run_id, tmp_path)
    tracker._journal._file.close()
    tracker._journal._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115  # a disk without room
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            tracker.metrics(step, {"train/loss": 1.0})
        assert tracker.flush()
    assert steps(tracking, run_id) == [0, 1, 2, 3]
    assert caplog.text.count("No space left") == 1


def test_what_waits_in_memory_is_bounded_and_on_disk_is_not(nowhere, tmp_path, caplog):
    (tmp_path / "read-only").write_text("no folder can be made here")
    on_disk = nowhere.job_tracker("1" * 32, tmp_path)
    trackers = [on_disk, nowhere.job_tracker("2" * 32, tmp_path / "read-only"), nowhere.job_tracker("3" * 32)]
    for step in range(IN_MEMORY_AT_MOST + 50):
        for tracker in trackers:
            tracker.metrics(step, {"train/loss": 1.0})
    assert [tracker.waiting for tracker in trackers] == [IN_MEMORY_AT_MOST + 50, IN_MEMORY_AT_MOST, IN_MEMORY_AT_MOST]
    assert caplog.text.count(f"left out from step {IN_MEMORY_AT_MOST} on") == 2
    assert caplog.text.count("in memory only") == 1
    nowhere.close(0)


SPEAKER = """
import os, sys
from pathlib import Path
from PIL import Image
from lorafleet.tracking import MlflowTracking
uri, run_id, spool = sys.argv[1:]
tracker = MlflowTracking(uri, Path(spool)).job_tracker(run_id, Path(spool))
for step in range(1, 8):
    tracker.metrics(step, {"train/loss": step / 8})
tracker.image("val/p00", 7, Image.new("RGB", (64, 64), "red"))
print("said", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_nothing_that_it_said_in_an_outage(tracking, run_id, tmp_path):
    command = [sys.executable, "-c", SPEAKER, "http://127.0.0.1:1", run_id, str(tmp_path)]
    speaker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert speaker.stdout.readline() == "said\n"
    assert tracking.replay(tmp_path) == 8, "it lives and will send itself"
    os.kill(speaker.pid, signal.SIGKILL)
    speaker.communicate()
    assert steps(tracking, run_id) == []
    assert tracking.replay(tmp_path) == 0
    assert steps(tracking, run_id) == [1, 2, 3, 4, 5, 6, 7]
    assert len(tracking.client.list_artifacts(run_id, "images")) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "valu'])
def test_what_a_killed_process_had_sent_completely_leaves_no_folder(tracking, run_id, tmp_path, torn):
    (tmp_path / run_id).mkdir()
    (tmp_path / run_id / f"{1:020d}-dead.jsonl").write_bytes(torn)
    assert tracking.replay(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_next_attempt_sends_what_the_last_one_kept_before_its_own(tracking, nowhere, run_id, tmp_path):
    before = nowhere.job_tracker(run_id, tmp_path)
    for step in (1, 2, 3, 4):
        before.metrics(step, {"train/loss": step / 8})
    assert nowhere.close(10) == 4
    tracking.resume(run_id, attempt=2)
    after = tracking.job_tracker(run_id, tmp_path)
    for step in (3, 4, 5):
        after.metrics(step, {"train/loss": step / 8})
    assert after.flush()
    assert steps(tracking, run_id) == [1, 2, 3, 4, 5]
    tracking.finish(run_id, "FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_entries_of_a_run_that_mlflow_does_not_know_stay_and_are_named(tracking, nowhere, tmp_path, caplog):
    unknown = "3" * 32
    nowhere.job_tracker(unknown, tmp_path).metrics(1, {"train/loss": 1.0})
    nowhere.close(10)
    assert tracking.replay(tmp_path) == 1
    assert f"{tmp_path / unknown}" in caplog.text
    assert "delete it" in caplog.text
    assert left_in(tmp_path / unknown) == 1


def test_a_spool_that_is_not_there_waits_for_nobody(tracking, tmp_path):
    assert tracking.replay(tmp_path / "spool") == 0


class Clocked:
    """An outbox of one entry that fails as often as it is told to, and a clock that stands still."""

    def __init__(self, failures):
        self.failures, self.waiting, self.calls = failures, 1, 0

    def deliver(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise OSError("nobody there")
        self.waiting = 0
        return True

    def refuse(self, problem):
        self.waiting = 0


def test_pauses_grow_to_a_bound_and_end_with_the_outage():
    sender, outbox, pauses = Sender("sqlite:///nowhere.db", clock=lambda: 0.0), Clocked(7), []
    for _ in range(7):
        sender._begun += 1
        sender._round([outbox])
        pauses.append(sender._next)
    assert pauses[:3] == [LINGER_SECONDS, 2 * LINGER_SECONDS, 4 * LINGER_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    sender._round([outbox])
    assert (sender._next, outbox.waiting) == (LINGER_SECONDS, 0)


def test_a_flush_returns_as_soon_as_an_attempt_has_failed():
    sender, outbox = Sender("sqlite:///nowhere.db"), Clocked(failures=10**9)
    assert not sender.flush(outbox, seconds=60.0)  # the suite's limit would be hit by a few of these
    assert not sender.flush(outbox, seconds=60.0)
    assert outbox.calls == 2
    sender.close(10)


def test_one_run_that_fails_alone_is_asked_last():
    sender, bad, good = Sender("sqlite:///nowhere.db"), Clocked(failures=10**9), Clocked(failures=0)
    sender._outboxes = [bad, good]
    sender._round([bad, good])
    assert sender._outboxes == [good, bad]
    assert good.calls == 0
    sender._round(list(sender._outboxes))
    assert good.waiting == 0


def test_nothing_is_forgotten_when_a_step_is_said_twice_in_one_batch(tracking, run_id):
    tracking.resume(run_id, attempt=1)
    tracker: MlflowJobTracker = tracking.job_tracker(run_id)
    for step in (1, 2, 2, 1, 3):
        tracker.metrics(step, {"train/loss": step / 8, f"only/{step}": 1.0})
    assert isinstance(tracker._queue[-1], Numbers)
    assert tracker.flush()
    assert steps(tracking, run_id) == [1, 2, 3]
    assert steps(tracking, run_id, "only/2") == [2]
