"""Takes out of the job database what it knows of forgotten jobs; their rows stay, as `job_state.forget` leaves them.

Knows rows; refuses to know files and MLflow.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Engine, delete, update

from lorafleet.util.addresses import sqlite_file
from lorafleet.util.sqlite_space import rewrite
from lorafleet_jobs.jobqueue import job_state
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.tables import jobs, outbox, scores, submissions, transaction, values_of


def erase_jobs(engine: Engine, rows: Sequence[JobRow], runs: Collection[str], manifest: str, now: float) -> int:
    """Forgets the jobs of one submission, with what `runs` had waiting for MLflow, in one transaction.

    `manifest` takes the place of the submission's. Returns how many entries of the outbox and scores went.
    """
    (submission,) = {row.submission for row in rows}
    ids = [row.id for row in rows]
    with transaction(engine) as connection:
        told = connection.execute(delete(outbox).where(outbox.c.run_id.in_(list(runs)))).rowcount
        rated = connection.execute(
            delete(scores).where(scores.c.submission == submission, scores.c.job.in_(ids))
        ).rowcount
        for row in rows:
            if (forgotten := job_state.forget(row, now)) is not None:
                mine = (jobs.c.submission == submission, jobs.c.id == row.id)
                values = values_of(forgotten) | {"revision": jobs.c.revision + 1}
                connection.execute(update(jobs).where(*mine).values(values))
        connection.execute(update(submissions).where(submissions.c.id == submission).values(manifest=manifest))
    return int(told + rated)


def rewrite_database(url: str) -> bool:
    """Writes an SQLite database anew, without its deleted rows; False if it is in use. True for any other database."""
    file = sqlite_file(url)
    return file is None or not file.exists() or rewrite(file)
