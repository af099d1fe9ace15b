"""Submissions and jobs as rows in SQL: SQLite under the home by default, any database by URL.

Every change is a pure transition of `job_state`, written back by compare-and-swap on the row's revision: one statement,
no lock held, so any number of processes may try. Times are passed in. Knows no cluster and no MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import delete, select, update

from lorafleet.bundle.ports import RunEntry
from lorafleet.errors import AmbiguousError, NotFoundError
from lorafleet_jobs.jobqueue import job_state
from lorafleet_jobs.jobqueue.job_state import ENDED, Ending, FailureKind, JobRow
from lorafleet_jobs.jobqueue.outbox import attempt_entry, record
from lorafleet_jobs.jobqueue.point_names import labels
from lorafleet_jobs.jobqueue.policy import Claim, next_jobs
from lorafleet_jobs.jobqueue.tables import (
    DriverRow,
    SubmissionRow,
    drivers,
    insert_into,
    job_row,
    jobs,
    open_database,
    submissions,
    transaction,
    values_of,
)
from lorafleet_jobs.jobspec import JobSpec

Transition = Callable[[JobRow], JobRow | None]
"""A change of `job_state`: the row afterwards, or None if it is refused."""
Telling = Callable[[JobRow, JobRow], Sequence[RunEntry]]
"""What a change tells MLflow, from the row before and the row after."""


def nothing(before: JobRow, after: JobRow) -> Sequence[RunEntry]:
    """Tells nothing."""
    return ()


class JobStore:
    """The rows of one database."""

    def __init__(self, url: str) -> None:
        """Raises UnreachableError."""
        self.engine = open_database(url)

    def add(self, submission: SubmissionRow, specs: tuple[JobSpec, ...], now: float) -> None:
        """Records a submission and its jobs, queued in the order given.

        Jobs that are recorded already keep their state; where their files lie, resources and priority are renewed.
        """
        values = values_of(replace(submission, created=now))
        renewed = {key: values[key] for key in ("manifest", "lanes", "resources", "priority")}
        with self.engine.connect() as connection:
            insert = insert_into(self.engine, submissions).values(values)
            connection.execute(insert.on_conflict_do_update(index_elements=[submissions.c.id], set_=renewed))
            for position, spec in enumerate(specs):
                row = JobRow(
                    submission.id, spec.id, position, spec, priority=submission.priority, steps=spec.steps,
                    created=now, updated=now,
                )  # fmt: skip
                insert = insert_into(self.engine, jobs).values(values_of(row))
                renewed = {"spec": spec, "priority": row.priority}
                key = [jobs.c.submission, jobs.c.id]
                connection.execute(insert.on_conflict_do_update(index_elements=key, set_=renewed))

    def submission(self, wanted: str) -> SubmissionRow:
        """A submission by its id, by its name, of which the newest is meant, or by a beginning of its id.

        Raises AmbiguousError if several begin so, and NotFoundError if none does; both say what there is.
        """
        everything = self.submissions()
        fitting = [row for row in everything if row.id.startswith(wanted)]
        exact = [row for row in everything if row.id == wanted] or [row for row in everything if row.name == wanted]
        if exact or len(fitting) == 1:
            return (exact or fitting)[0]
        names = ", ".join(f"{row.id} ({row.name})" for row in (fitting or everything)[:8])
        if fitting:
            raise AmbiguousError(f"submission {wanted!r} could be any of these: {names}; give more of its id")
        there = f"there are: {names}" if names else "none was submitted"
        raise NotFoundError(f"there is no submission {wanted!r}; {there}")

    def submissions(self) -> list[SubmissionRow]:
        """Every submission, the newest first."""
        query = select(submissions).order_by(submissions.c.created.desc())
        with self.engine.connect() as connection:
            return [SubmissionRow(**row._mapping) for row in connection.execute(query)]

    def jobs(self, submission: str) -> list[JobRow]:
        """The jobs of a submission, in order."""
        query = select(jobs).where(jobs.c.submission == submission).order_by(jobs.c.position)
        with self.engine.connect() as connection:
            return [job_row(row) for row in connection.execute(query)]

    def find_job(self, submission: str, wanted: str) -> JobRow:
        """A job by its id, a beginning of it, its adapter's name, or its label, as `rex rank 16`.

        Raises AmbiguousError if several fit, and NotFoundError if none does; both say what there is.
        """
        everything = self.jobs(submission)
        label = labels(everything)
        exact = [row for row in everything if wanted in (row.id, row.spec.adapter, label[row.id])]
        fitting = exact or [row for row in everything if row.id.startswith(wanted)]
        if len(fitting) == 1:
            return fitting[0]
        names = ", ".join(f"{row.id} ({label[row.id]})" for row in (fitting or everything)[:8])
        if fitting:
            raise AmbiguousError(f"job {wanted!r} could be any of these: {names}; give more of its id")
        raise NotFoundError(f"there is no job {wanted!r} in {submission}; there are: {names}")

    def with_ids(self, ids: Collection[str]) -> list[JobRow]:
        """The rows of jobs with these ids in any submission."""
        with self.engine.connect() as connection:
            return [job_row(row) for row in connection.execute(select(jobs).where(jobs.c.id.in_(ids)))]

    def set_run(self, submission: str, job: str | None, run_id: str) -> None:
        """Remembers the MLflow run of a job, or with None of the submission itself."""
        with self.engine.connect() as connection:
            if job is None:
                connection.execute(update(submissions).where(submissions.c.id == submission).values(run_id=run_id))
            else:
                key = (jobs.c.submission == submission, jobs.c.id == job)
                connection.execute(update(jobs).where(*key).values(run_id=run_id, revision=jobs.c.revision + 1))

    def set_cluster(self, submission: str, cluster: str | None) -> None:
        """Remembers the Ray on which a submission's lanes run; None once its driver has finalised it."""
        with self.engine.connect() as connection:
            connection.execute(update(submissions).where(submissions.c.id == submission).values(cluster=cluster))

    def driver(self, submission: str) -> DriverRow | None:
        """The last lease of a driver on a submission, run out or not; None if nobody holds one."""
        with self.engine.connect() as connection:
            row = connection.execute(select(drivers).where(drivers.c.submission == submission)).first()
        return None if row is None else DriverRow(**row._mapping)

    def take_driver(self, lease: DriverRow, now: float) -> bool:
        """Takes the lease on driving a submission; False if another driver holds one that has not run out."""
        insert = insert_into(self.engine, drivers).values(values_of(lease))
        over = insert.on_conflict_do_update(
            index_elements=[drivers.c.submission], set_=values_of(lease), where=drivers.c.expires <= now
        )
        with self.engine.connect() as connection:
            return connection.execute(over.returning(drivers.c.token)).first() is not None

    def renew_driver(self, lease: DriverRow) -> bool:
        """Prolongs a driver's lease to its `expires`; False if it is another driver's by now."""
        with self.engine.connect() as connection:
            mine = (drivers.c.submission == lease.submission, drivers.c.token == lease.token)
            return connection.execute(update(drivers).where(*mine).values(expires=lease.expires)).rowcount == 1

    def drop_driver(self, lease: DriverRow) -> None:
        """Gives a driver's lease back, or removes that of a driver that is known to be dead."""
        with self.engine.connect() as connection:
            mine = (drivers.c.submission == lease.submission, drivers.c.token == lease.token)
            connection.execute(delete(drivers).where(*mine))

    def claims(self, cluster: str, now: float) -> list[Claim]:
        """What the submissions that are driven on a cluster now have of it."""
        query = (
            select(submissions)
            .join(drivers, drivers.c.submission == submissions.c.id)
            .where(submissions.c.cluster == cluster, drivers.c.expires > now)
        )
        with self.engine.connect() as connection:
            driven = [SubmissionRow(**row._mapping) for row in connection.execute(query)]
        return [self._claim(row, now) for row in driven]

    def _claim(self, submission: SubmissionRow, now: float) -> Claim:
        rows = self.jobs(submission.id)
        waiting = len(next_jobs(rows, now, max_running=submission.resources.max_running))
        lanes = {row.lane for row in rows if row.state == "running"}
        return Claim(submission.id, submission.priority, waiting, len(lanes), submission.lanes)

    def lease(
        self,
        submission: str,
        lane: str,
        now: float,
        holding: Collection[str] = (),
        max_running: int | None = None,
        workers: int | None = None,
    ) -> JobRow | None:
        """Gives a lane that holds the jobs `holding` another one; None if there is none for it now.

        With `workers` only of those that so many workers share.
        A job that was given to it, but that it does not know of, is given again: an answer may get lost.
        """
        for row in self.jobs(submission):
            if row.state == "running" and row.lane == lane and row.id not in holding:
                if (mine := self._change(row, lambda row: job_state.heartbeat(row, row.attempts, now))) is not None:
                    return mine
            elif job_state.expire(row, now) is not None:
                self._change(row, lambda row: job_state.expire(row, now))
        for row in next_jobs(self.jobs(submission), now, len(holding), max_running, workers):
            begin = partial(job_state.lease, lane=lane, now=now)
            if (leased := self.change(submission, row.id, begin, lambda _, row: [attempt_entry(row)], now)) is not None:
                return leased
        return None

    def change(
        self, submission: str, job: str, transition: Transition, entries: Telling = nothing, now: float = 0.0
    ) -> JobRow | None:
        """Applies a transition to a job as it is now; the row afterwards, or None if it is refused.

        What `entries` says of the change goes into the outbox of the job's run in the same transaction, as of `now`.
        """
        key = (jobs.c.submission == submission, jobs.c.id == job)
        while True:
            with self.engine.connect() as connection:
                found = connection.execute(select(jobs).where(*key)).one()
            before = job_row(found)
            after = transition(before)
            if after is None:
                return None
            told = entries(before, after) if before.run_id is not None else ()
            if after == before and not told:
                return after
            values = values_of(after) | {"revision": found.revision + 1}
            with transaction(self.engine) as connection:
                statement = update(jobs).where(*key, jobs.c.revision == found.revision).values(values)
                if connection.execute(statement).rowcount == 1:
                    if before.run_id is not None:
                        record(connection, submission, before.run_id, told, now)
                    return after

    def give_back_all(self, submission: str, now: float) -> None:
        """Queues every running job again, for no lane is at work; nothing is held against them."""
        self._change_all(submission, None, lambda row: job_state.give_back(row, now))

    def lose_lane(self, submission: str, lane: str, now: float, cause: str | None = None) -> list[JobRow]:
        """Takes back the jobs of a lane that died, of `cause` if that is known; returns them."""
        return self._change_all(submission, None, lambda row: job_state.lose(row, lane, now, cause=cause))

    def retry(self, submission: str, now: float, job: str | None = None) -> list[JobRow]:
        """Queues the failed and cancelled jobs again, or one of them; returns those."""
        return self._change_all(submission, job, lambda row: job_state.requeue(row, now))

    def cancel(self, submission: str, now: float, job: str | None = None) -> list[JobRow]:
        """Cancels the jobs that have not ended, or one of them; returns those. Their lanes notice at the next step."""
        return self._change_all(
            submission, job, lambda row: job_state.end(row, "cancelled", "cancelled", now, "cancelled")
        )

    def end(
        self, submission: str, state: Ending, error: str | None, now: float, kind: FailureKind | None = None
    ) -> list[JobRow]:
        """Ends every job that has not ended; returns those."""
        return self._change_all(submission, None, lambda row: job_state.end(row, state, error, now, kind))

    def is_drained(self, submission: str) -> bool:
        """Whether every job has ended."""
        query = select(jobs.c.id).where(jobs.c.submission == submission, jobs.c.state.not_in(ENDED)).limit(1)
        with self.engine.connect() as connection:
            return connection.execute(query).first() is None

    def _change_all(self, submission: str, job: str | None, transition: Transition) -> list[JobRow]:
        changed = [self._change(row, transition) for row in self.jobs(submission) if job in (None, row.id)]
        return [row for row in changed if row is not None]

    def _change(self, row: JobRow, transition: Transition) -> JobRow | None:
        return self.change(row.submission, row.id, transition)
