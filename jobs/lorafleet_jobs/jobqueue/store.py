"""Submissions and jobs as rows in SQL: SQLite under the home by default, any database by URL.

Every change is a pure transition of `job_state`, written back by compare-and-swap on the row's revision: one statement,
no lock held, so any number of processes may try. Times are passed in. Knows no cluster and no MLflow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite

from lorafleet.config import Resources
from lorafleet.errors import NotFoundError
from lorafleet.util.addresses import sqlite_url
from lorafleet_jobs.jobqueue import job_state as rows
from lorafleet_jobs.jobqueue.job_state import ENDED, Ending, FailureKind, JobRow, State
from lorafleet_jobs.jobqueue.policy import Claim, next_jobs
from lorafleet_jobs.jobqueue.tables import jobs, open_database, submissions
from lorafleet_jobs.jobspec import JobSpec


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
    priority: int = 0
    run_id: str | None = None
    cluster: str | None = None
    """Where its lanes are now."""
    driven_until: float | None = None
    """A driver renews it; after that nobody drives the submission any more."""
    created: float = 0.0


class JobStore:
    """The rows of one database."""

    def __init__(self, url: str) -> None:
        """Raises UnreachableError."""
        self.engine = open_database(url)
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self.engine.dialect.name]

    def add(self, submission: SubmissionRow, specs: tuple[JobSpec, ...], now: float) -> None:
        """Records a submission and its jobs, queued in the order given.

        Jobs that are recorded already keep their state; where their files lie, resources and priority are renewed.
        """
        values = dataclasses.asdict(submission) | {"resources": submission.resources.model_dump_json(), "created": now}
        with self.engine.connect() as connection:
            renewed = {key: values[key] for key in ("manifest", "lanes", "resources", "priority")}
            statement = self._insert(submissions).values(values)
            connection.execute(statement.on_conflict_do_update(index_elements=[submissions.c.id], set_=renewed))
            for position, spec in enumerate(specs):
                row = JobRow(
                    submission.id, spec.id, position, spec, priority=submission.priority, steps=spec.steps,
                    created=now, updated=now,
                )  # fmt: skip
                new = _columns(row)
                statement = self._insert(jobs).values(new)
                key, renewed = [jobs.c.submission, jobs.c.id], {name: new[name] for name in ("spec", "priority")}
                connection.execute(statement.on_conflict_do_update(index_elements=key, set_=renewed))

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

    def find_job(self, submission: str, wanted: str) -> JobRow:
        """A job by its id, a beginning of it, or its adapter's name; NotFoundError says what there is."""
        there = self.jobs(submission)
        exact = [row for row in there if wanted in (row.id, row.spec.adapter)]
        found = exact or [row for row in there if row.id.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(f"{row.id} ({row.spec.adapter})" for row in (found or there)[:8])
        if found:
            raise NotFoundError(f"job {wanted!r} fits several: {names}; give more of its id")
        raise NotFoundError(f"there is no job {wanted!r} in {submission}; there are: {names}")

    def of_jobs(self, ids: Collection[str]) -> list[JobRow]:
        """The rows of these jobs in whatever submissions."""
        with self.engine.connect() as connection:
            return [_row(one) for one in connection.execute(select(jobs).where(jobs.c.id.in_(ids))).mappings()]

    def set_run(self, submission: str, job: str | None, run_id: str) -> None:
        """Remembers the MLflow run of a job, or with None of the submission itself."""
        with self.engine.connect() as connection:
            if job is None:
                connection.execute(update(submissions).where(submissions.c.id == submission).values(run_id=run_id))
            else:
                key = (jobs.c.submission == submission, jobs.c.id == job)
                connection.execute(update(jobs).where(*key).values(run_id=run_id, revision=jobs.c.revision + 1))

    def drive(self, submission: str, cluster: str, until: float) -> None:
        """A driver is at work, on this cluster, and will say so again before `until`."""
        with self.engine.connect() as connection:
            values = {"cluster": cluster, "driven_until": until}
            connection.execute(update(submissions).where(submissions.c.id == submission).values(values))

    def rest(self, submission: str) -> None:
        """Its driver has nothing left to do; until it says so, another one does what is left."""
        with self.engine.connect() as connection:
            connection.execute(update(submissions).where(submissions.c.id == submission).values(driven_until=None))

    def claims(self, cluster: str, now: float) -> list[Claim]:
        """What the submissions that are driven on a cluster now have of it."""
        driven = [one for one in self.submissions() if one.cluster == cluster and (one.driven_until or 0) > now]
        return [self._claim(one, now) for one in driven]

    def _claim(self, submission: SubmissionRow, now: float) -> Claim:
        there = self.jobs(submission.id)
        waiting = len(next_jobs(there, now, max_running=submission.resources.max_running))
        lanes = {row.lane for row in there if row.state == "running"}
        return Claim(submission.id, submission.priority, waiting, len(lanes), submission.lanes)

    def lease(
        self, submission: str, lane: str, now: float,
        holding: Collection[str] = (), max_running: int | None = None, workers: int | None = None,
    ) -> JobRow | None:  # fmt: skip
        """Gives a lane that holds the jobs `holding` another one; None if there is none for it now.

        With `workers` only of those that so many workers share.
        A job that was given to it, but that it does not know of, is given again: an answer may get lost.
        """
        there = self.jobs(submission)
        for row in there:
            if row.state == "running" and row.lane == lane and row.id not in holding:
                if (mine := self._change(row, lambda row: rows.heartbeat(row, row.attempts, now))) is not None:
                    return mine
            elif rows.expire(row, now) is not None:
                self._change(row, lambda row: rows.expire(row, now))
        for row in next_jobs(self.jobs(submission), now, len(holding), max_running, workers):
            if (leased := self._change(row, lambda row: rows.lease(row, lane, now))) is not None:
                return leased
        return None

    def change(self, submission: str, job: str, transition: Callable[[JobRow], JobRow | None]) -> JobRow | None:
        """Applies a transition of `rows` to a job as it is now; the row afterwards, or None if it is refused."""
        key = (jobs.c.submission == submission, jobs.c.id == job)
        while True:
            with self.engine.connect() as connection:
                seen = connection.execute(select(jobs).where(*key)).mappings().one()
                before = _row(seen)
                after = transition(before)
                if after is None or after == before:
                    return after
                values = _columns(after) | {"revision": seen["revision"] + 1}
                statement = update(jobs).where(*key, jobs.c.revision == seen["revision"]).values(values)
                if connection.execute(statement).rowcount == 1:
                    return after

    def heartbeat(self, submission: str, job: str, attempt: int, now: float) -> bool:
        """Prolongs a lease; False if this attempt no longer holds it."""
        return self.change(submission, job, lambda row: rows.heartbeat(row, attempt, now)) is not None

    def progress(self, submission: str, job: str, attempt: int, step: int, loss: float | None, now: float) -> bool:
        """Notes the step reached; False if this attempt no longer holds the job."""
        return self.change(submission, job, lambda row: rows.progress(row, attempt, step, loss, now)) is not None

    def finish(
        self, submission: str, job: str, attempt: int, state: Ending, now: float,
        *, version: int | None = None, error: str | None = None,
    ) -> bool:  # fmt: skip
        """Ends a job; False if this attempt no longer holds it."""
        after = self.change(
            submission, job, lambda row: rows.finish(row, attempt, state, now, version=version, error=error)
        )
        return after is not None

    def fail(
        self, submission: str, job: str, attempt: int, kind: FailureKind, reason: str, now: float, packed: int = 1
    ) -> JobRow | None:
        """A job failed in its lane: what became of it, queued or failed; None if this attempt no longer holds it."""
        return self.change(submission, job, lambda row: rows.fail(row, attempt, kind, reason, now, packed))

    def release(self, submission: str, now: float) -> None:
        """Takes back every running job, for no lane is at work; nothing is held against them."""
        self._each(submission, None, lambda row: rows.give_back(row, now))

    def lose(self, submission: str, lane: str, now: float, cause: str | None = None) -> list[JobRow]:
        """Takes back what a lane held that died, of `cause` if that is known; returns those."""
        return self._each(submission, None, lambda row: rows.lose(row, lane, now, cause=cause))

    def retry(self, submission: str, now: float, job: str | None = None) -> list[JobRow]:
        """Queues the failed and cancelled jobs again, or one of them; returns those."""
        return self._each(submission, job, lambda row: rows.requeue(row, now))

    def cancel(self, submission: str, now: float, job: str | None = None) -> list[JobRow]:
        """Cancels the jobs that have not ended, or one of them; returns those. Their lanes notice at the next step."""
        return self._each(submission, job, lambda row: rows.end(row, "cancelled", "cancelled", now, "cancelled"))

    def end(
        self, submission: str, state: Ending, error: str | None, now: float, kind: FailureKind | None = None
    ) -> list[JobRow]:
        """Ends every job that has not ended; returns those."""
        return self._each(submission, None, lambda row: rows.end(row, state, error, now, kind))

    def is_drained(self, submission: str) -> bool:
        """Whether every job has ended."""
        with self.engine.connect() as connection:
            query = select(jobs.c.id).where(jobs.c.submission == submission, jobs.c.state.not_in(ENDED)).limit(1)
            return connection.execute(query).first() is None

    def _each(self, submission: str, job: str | None, transition: Callable[[JobRow], JobRow | None]) -> list[JobRow]:
        wanted = [row for row in self.jobs(submission) if job in (None, row.id)]
        changed = [self._change(row, transition) for row in wanted]
        return [row for row in changed if row is not None]

    def _change(self, row: JobRow, transition: Callable[[JobRow], JobRow | None]) -> JobRow | None:
        return self.change(row.submission, row.id, transition)


def _columns(row: JobRow) -> dict[str, Any]:
    values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return values | {"spec": row.spec.model_dump_json()}


def _row(values: Any) -> JobRow:
    known = {key: value for key, value in values.items() if key != "revision"}
    return JobRow(**{**known, "spec": JobSpec.model_validate_json(values["spec"])})


__all__ = ["JobRow", "JobStore", "State", "SubmissionRow", "sqlite_url"]
