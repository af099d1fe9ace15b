"""Submissions and jobs as rows in SQL: SQLite under the home by default, any database by URL.

Every change is a pure transition of `lorafleet_jobs.rows`, written back by compare-and-swap on the row's revision: one
statement, no lock held, so any number of processes may try. Times are passed in. Knows no cluster and no MLflow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from lorafleet.config import Resources
from lorafleet.errors import NotFoundError
from lorafleet_jobs import rows
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.rows import ENDED, Ending, JobRow, State

BUSY_MILLISECONDS = 20_000
metadata = MetaData()
submissions = Table(
    "submissions",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("base", Text, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("lanes", Integer, nullable=False),
    Column("resources", Text, nullable=False),
    Column("run_id", String(128)),
    Column("created", Float, nullable=False),
)
jobs = Table(
    "jobs",
    metadata,
    Column("submission", String(128), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("limit", Integer, nullable=False),
    Column("lane", String(128)),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("loss", Float),
    Column("version", Integer),
    Column("run_id", String(128)),
    Column("error", Text),
    Column("lease_expires", Float),
    Column("started", Float),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("revision", Integer, nullable=False, default=0),
)


@dataclass(frozen=True)
class SubmissionRow:
    """A submission as recorded."""

    id: str
    name: str
    base: str
    manifest: str
    """The resolved manifest, YAML."""
    lanes: int
    resources: Resources
    run_id: str | None = None
    created: float = 0.0


class JobStore:
    """The rows of one database."""

    def __init__(self, url: str) -> None:
        self.engine = _open(url)
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self.engine.dialect.name]

    def add(self, submission: SubmissionRow, specs: tuple[JobSpec, ...], now: float) -> None:
        """Records a submission and its jobs, queued in the order given.

        Jobs that are recorded already keep their state; only where their files lie, and the resources, are renewed.
        """
        values = dataclasses.asdict(submission) | {"resources": submission.resources.model_dump_json(), "created": now}
        with self.engine.connect() as connection:
            renewed = {key: values[key] for key in ("manifest", "lanes", "resources")}
            statement = self._insert(submissions).values(values)
            connection.execute(statement.on_conflict_do_update(index_elements=[submissions.c.id], set_=renewed))
            for position, spec in enumerate(specs):
                row = JobRow(submission.id, spec.id, position, spec, steps=spec.steps, created=now, updated=now)
                new = _columns(row)
                statement = self._insert(jobs).values(new)
                key = [jobs.c.submission, jobs.c.id]
                connection.execute(statement.on_conflict_do_update(index_elements=key, set_={"spec": new["spec"]}))

    def submission(self, wanted: str) -> SubmissionRow:
        """A submission by its id or by a beginning of it that fits only one; NotFoundError says what there is."""
        found = [one for one in self.submissions() if one.id.startswith(wanted)]
        exact = [one for one in found if one.id == wanted]
        if len(exact or found) == 1:
            return (exact or found)[0]
        names = ", ".join(f"{one.id} ({one.name})" for one in (found or self.submissions())[:8])
        if found:
            raise NotFoundError(f"submission {wanted!r} fits several: {names}; give more of its id")
        there = f"there are: {names}" if names else "none was submitted"
        raise NotFoundError(f"there is no submission {wanted!r}; {there}")

    def submissions(self) -> list[SubmissionRow]:
        """Every submission, the newest first."""
        with self.engine.connect() as connection:
            found = connection.execute(select(submissions).order_by(submissions.c.created.desc())).mappings()
            return [
                SubmissionRow(**{**one, "resources": Resources.model_validate_json(one["resources"])}) for one in found
            ]

    def jobs(self, submission: str) -> list[JobRow]:
        """The jobs of a submission, in order."""
        with self.engine.connect() as connection:
            query = select(jobs).where(jobs.c.submission == submission).order_by(jobs.c.position)
            return [_row(one) for one in connection.execute(query).mappings()]

    def set_run(self, submission: str, job: str | None, run_id: str) -> None:
        """Remembers the MLflow run of a job, or with None of the submission itself."""
        with self.engine.connect() as connection:
            if job is None:
                connection.execute(update(submissions).where(submissions.c.id == submission).values(run_id=run_id))
            else:
                key = (jobs.c.submission == submission, jobs.c.id == job)
                connection.execute(update(jobs).where(*key).values(run_id=run_id, revision=jobs.c.revision + 1))

    def lease(self, submission: str, lane: str, now: float) -> JobRow | None:
        """Gives a lane the first free job of a submission; None if no job is free now."""
        for row in self.jobs(submission):
            if rows.is_free(row, now):
                leased = self._change(row.submission, row.id, lambda row: rows.lease(row, lane, now))
                if leased is not None and leased.state == "running":
                    return leased
        return None

    def heartbeat(self, submission: str, job: str, attempt: int, now: float) -> bool:
        """Prolongs a lease; False if this attempt no longer holds it."""
        return self._change(submission, job, lambda row: rows.heartbeat(row, attempt, now)) is not None

    def progress(self, submission: str, job: str, attempt: int, step: int, loss: float | None, now: float) -> bool:
        """Notes the step reached; False if this attempt no longer holds the job."""
        return self._change(submission, job, lambda row: rows.progress(row, attempt, step, loss, now)) is not None

    def finish(
        self, submission: str, job: str, attempt: int, state: Ending, now: float,
        *, version: int | None = None, error: str | None = None,
    ) -> bool:  # fmt: skip
        """Ends a job; False if this attempt no longer holds it."""
        return (
            self._change(
                submission, job, lambda row: rows.finish(row, attempt, state, now, version=version, error=error)
            )
            is not None
        )

    def release(self, submission: str, now: float, lane: str | None = None) -> None:
        """Takes back the running jobs of a lane that is gone, or of all lanes."""
        for row in self.jobs(submission):
            if row.state == "running":
                self._change(submission, row.id, lambda row: rows.release(row, lane, now))

    def requeue(self, submission: str, now: float) -> None:
        """Queues the failed and cancelled jobs again."""
        for row in self.jobs(submission):
            self._change(submission, row.id, lambda row: rows.requeue(row, now))

    def end(self, submission: str, state: Ending, error: str | None, now: float) -> list[JobRow]:
        """Ends every job that has not ended; returns those."""
        changed = [
            self._change(submission, row.id, lambda row: rows.end(row, state, error, now))
            for row in self.jobs(submission)
        ]
        return [row for row in changed if row is not None]

    def is_drained(self, submission: str) -> bool:
        """Whether every job has ended."""
        with self.engine.connect() as connection:
            query = select(jobs.c.id).where(jobs.c.submission == submission, jobs.c.state.not_in(ENDED)).limit(1)
            return connection.execute(query).first() is None

    def _change(self, submission: str, job: str, transition: Callable[[JobRow], JobRow | None]) -> JobRow | None:
        """Applies a transition to the row as it is; again if another process changed it meanwhile."""
        key = (jobs.c.submission == submission, jobs.c.id == job)
        while True:
            with self.engine.connect() as connection:
                seen = connection.execute(select(jobs).where(*key)).mappings().one()
                after = transition(_row(seen))
                if after is None:
                    return None
                values = _columns(after) | {"revision": seen["revision"] + 1}
                statement = update(jobs).where(*key, jobs.c.revision == seen["revision"]).values(values)
                if connection.execute(statement).rowcount == 1:
                    return after


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


def _open(url: str) -> Engine:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
    try:
        metadata.create_all(engine)
    except OperationalError:
        if not inspect(engine).has_table(jobs.name):  # else another process was first
            raise
    return engine


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _columns(row: JobRow) -> dict[str, Any]:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return values | {"spec": row.spec.model_dump_json()}


def _row(values: Any) -> JobRow:
    known = {key: value for key, value in values.items() if key != "revision"}
    return JobRow(**{**known, "spec": JobSpec.model_validate_json(values["spec"])})


__all__ = ["JobRow", "JobStore", "State", "SubmissionRow", "sqlite_url"]
