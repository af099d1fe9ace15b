"""Forgotten jobs in the database, of each kind: their rows say no more, and others' say what they said."""

import sqlite3

from job_rows import SUBMISSION, filled, job
from sqlalchemy import select

from lorafleet.bundle.ports import RunEntry
from lorafleet.util.addresses import sqlite_file
from lorafleet_jobs.jobqueue.erase import erase_jobs, rewrite_database
from lorafleet_jobs.jobqueue.outbox import Outbox
from lorafleet_jobs.jobqueue.tables import ScoreRow, outbox, scores, values_of


def test_rows_entries_and_scores_of_a_job_go_and_its_neighbours_stay(database):
    store = filled(database, 2)
    for n in range(2):
        Outbox(store.engine).record(SUBMISSION, f"run{n}", [RunEntry("picture", "p", 1, picture=b"secret" * 999)], 1.0)
        row = ScoreRow(SUBMISSION, f"job{n}", 5, f"job{n}", 1, 0.5, None, True)
        with store.engine.connect() as connection:
            connection.execute(scores.insert().values(values_of(row)))
    kept = job(store, "job1")
    store.cancel(SUBMISSION, 2.0, "job0")
    assert erase_jobs(store.engine, [job(store, "job0")], ["run0", "older"], "name: less\n", 3.0) == 2
    gone = job(store, "job0")
    assert (gone.state, gone.spec.folder, gone.spec.adapter, gone.run_id, gone.error) == (
        "forgotten", "", "job0", None, None,
    )  # fmt: skip
    assert job(store, "job1") == kept
    assert store.submission(SUBMISSION).manifest == "name: less\n"
    with store.engine.connect() as connection:
        assert [row.run_id for row in connection.execute(select(outbox))] == ["run1"]
        assert [row.job for row in connection.execute(select(scores))] == ["job1"]
    assert erase_jobs(store.engine, [gone], [], "name: less\n", 4.0) == 0, "once more changes nothing"
    assert rewrite_database(database)


def test_what_was_deleted_is_legible_until_the_file_is_written_anew_and_a_writer_is_told(tmp_path):
    database = f"sqlite:///{tmp_path / 'jobs.db'}"
    store = filled(database, 1)
    file = sqlite_file(database)
    Outbox(store.engine).record(SUBMISSION, "run0", [RunEntry("picture", "p", 1, picture=b"secret" * 9999)], 1.0)
    store.cancel(SUBMISSION, 2.0)
    erase_jobs(store.engine, [job(store, "job0")], ["run0"], "", 3.0)
    legible = [path for path in tmp_path.iterdir() if b"secretsecret" in path.read_bytes()]
    assert legible
    assert rewrite_database(database)
    assert not [path for path in tmp_path.iterdir() if b"secretsecret" in path.read_bytes()]
    assert job(store, "job0").state == "forgotten", "whoever has it open reads on"
    assert sqlite3.connect(file).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_that_somebody_is_writing_to_is_left_for_later(tmp_path, monkeypatch):
    monkeypatch.setattr("lorafleet.util.sqlite_space.WAIT_SECONDS", 0.1)
    database = f"sqlite:///{tmp_path / 'jobs.db'}"
    store = filled(database, 1)
    writer = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert not rewrite_database(database)
    writer.execute("ROLLBACK")
    assert rewrite_database(database)
    assert job(store, "job0").state == "queued"
    assert rewrite_database(f"sqlite:///{tmp_path / 'none.db'}")
