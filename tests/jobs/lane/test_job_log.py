"""A job's log: whole lines whoever writes, tracebacks kept together, followed to the end."""

import subprocess
import sys

from lorafleet_jobs.lane.job_log import STAMP, Entry, JobLog, entries, follow


def test_what_is_said_is_one_dated_entry_however_many_lines_it_has(tmp_path):
    log = JobLog(tmp_path / "new" / "job.log")
    log.append("attempt 1, lane a-0")
    log.append("Traceback:\n  File x\nMemoryError: no room\n")
    first, *rest = log.path.read_text().splitlines()
    assert STAMP.fullmatch(first)[2] == "attempt 1, lane a-0"
    assert rest[1:] == ["    File x", "  MemoryError: no room"]
    said = [entry.text for entry in entries(log.path.read_text().splitlines(keepends=True))]
    assert said == ["attempt 1, lane a-0", "Traceback:\n  File x\nMemoryError: no room"]


def test_a_log_that_begins_in_the_middle_loses_nothing():
    assert list(entries(["  tail\n", "2026-11-21T11:30:05Z done\n"])) == [
        Entry("", "tail"),
        Entry("2026-11-21T11:30:05Z", "done"),
    ]


def test_processes_do_not_tear_each_others_lines(tmp_path):
    code = "import sys; from pathlib import Path; from lorafleet_jobs.lane.job_log import JobLog\n"
    code += "for n in range(200): JobLog(Path(sys.argv[1])).append(sys.argv[2] * 300)"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log"), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted({STAMP.fullmatch(line)[2] for line in lines}) == ["a" * 300, "b" * 300]
    assert len(lines) == 400


def test_a_log_that_cannot_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    JobLog(tmp_path / "file" / "job.log").append("step 5")
    assert "not logged there: step 5" in caplog.text


def test_following_waits_for_the_file_leaves_half_a_line_and_reads_what_came_last(tmp_path):
    path = tmp_path / "log"
    writes = [lambda: path.write_text("one\ntw"), lambda: path.write_text("one\ntwo\n"), None]

    def is_over() -> bool:
        write = writes.pop(0)
        if write is not None:
            write()
        return write is None

    assert list(follow(path, is_over, lambda: None)) == ["one\n", "two\n"]
