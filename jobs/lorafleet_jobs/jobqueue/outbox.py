"""The transactional outbox: what jobs record for MLflow, as rows beside the jobs' own until the driver has sent them.

Its primary key makes every point one point: what a later attempt records again under the same run, kind, key and step
is already there, and the first stays. Knows rows; refuses to know MLflow.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, case, func, select, update

from lorafleet.bundle.ports import Caption, RunEnd, RunEntry
from lorafleet_jobs.jobqueue.job_state import ENDED, JobRow
from lorafleet_jobs.jobqueue.tables import OutboxRow, insert_into, job_row, jobs, outbox, transaction, values_of

if TYPE_CHECKING:
    from PIL.Image import Image


SECONDS = "perf/train_seconds"
AT_ONCE = 64
"""Entries that are read at once: of pictures, more would fill the memory."""
WITHIN_ONE_MOMENT = case((outbox.c.kind == "attempt", 0), (outbox.c.kind == "end", 2), else_=1)


def record(connection: Connection, submission: str, run_id: str, entries: Sequence[RunEntry], now: float) -> None:
    """Adds the entries of a run that are not there yet, in the transaction of a change that they tell of."""
    rows = [
        OutboxRow(
            run_id=run_id,
            kind=entry.kind,
            key=entry.key,
            step=entry.step,
            submission=submission,
            milliseconds=int(now * 1000),
            value=entry.value,
            picture=entry.picture,
        )
        for entry in entries
    ]
    if rows:
        insert = insert_into(connection.engine, outbox).on_conflict_do_nothing()
        connection.execute(insert, [values_of(row) for row in rows])


class Outbox:
    """The outbox of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, submission: str, run_id: str, entries: Sequence[RunEntry], now: float) -> None:
        """Adds the entries of a run that are not there yet, as recorded at `now` (seconds since the epoch)."""
        with transaction(self._engine) as connection:
            record(connection, submission, run_id, entries, now)

    def runs_waiting(self, submissions: Collection[str]) -> list[str]:
        """The runs of some submissions that have something to send, the one that has waited longest first."""
        query = (
            select(outbox.c.run_id)
            .where(outbox.c.sent.is_(False), outbox.c.submission.in_(submissions))
            .group_by(outbox.c.run_id)
            .order_by(func.min(outbox.c.milliseconds))
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def waiting(self, run_id: str, limit: int = AT_ONCE) -> list[RunEntry]:
        """The first `limit` entries that a run has to send, in the order in which they were recorded.

        An attempt makes its run a running one; where the job has ended otherwise than through its lane (cancelled, or
        lost with its driver), the run ends after its last entry as the job's row says.
        """
        mine, order = outbox.c.run_id == run_id, (outbox.c.milliseconds, WITHIN_ONE_MOMENT, outbox.c.step)
        query = select(outbox).where(mine, outbox.c.sent.is_(False)).order_by(*order).limit(limit)
        turns = select(outbox.c.kind).where(mine, outbox.c.kind.in_(("attempt", "end"))).order_by(*order)
        ended = select(jobs).where(jobs.c.run_id == run_id, jobs.c.state.in_(ENDED))
        with self._engine.connect() as connection:
            rows = [OutboxRow(**row._mapping) for row in connection.execute(query)]
            is_open = list(connection.execute(turns).scalars())[-1:] == ["attempt"]
            ends = [end_entry(job_row(row)) for row in connection.execute(ended)]
        entries = [RunEntry(row.kind, row.key, row.step, row.value, row.picture, row.milliseconds) for row in rows]
        return entries + (ends if is_open and 0 < len(entries) < limit else [])

    def count(self, submissions: Collection[str]) -> int:
        """How many entries of some submissions wait."""
        query = select(func.count()).where(outbox.c.sent.is_(False), outbox.c.submission.in_(submissions))
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def submissions_waiting(self) -> set[str]:
        """Every submission that has something to send."""
        query = select(outbox.c.submission).where(outbox.c.sent.is_(False)).distinct()
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def mark_sent(self, run_id: str, entries: Sequence[RunEntry]) -> None:
        """Keeps entries only as markers: they are with MLflow, or refused by it, and are not sent again."""
        with transaction(self._engine) as connection:
            for entry in entries:
                key = (outbox.c.run_id == run_id, outbox.c.kind == entry.kind, outbox.c.key == entry.key)
                row = update(outbox).where(*key, outbox.c.step == entry.step)
                connection.execute(row.values(sent=True, value="", picture=None))


@dataclass(frozen=True)
class QueueTracker:
    """`lorafleet.bundle.ports.JobTracker` on a queue: hands over what a training records, in one call each time."""

    record: Callable[[Sequence[RunEntry]], object]

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records one step's numbers."""
        self.record([RunEntry("metric", key, step, repr(float(value))) for key, value in values.items()])

    def image(self, key: str, step: int, image: Image, caption: Caption | None = None) -> None:
        """Records a picture under `key`."""
        stream = io.BytesIO()
        image.save(stream, "PNG")
        said = "" if caption is None else json.dumps(asdict(caption))
        self.record([RunEntry("picture", key, step, said, stream.getvalue())])


def attempt_entry(row: JobRow) -> RunEntry:
    """That an attempt of a job is at work."""
    return RunEntry("attempt", "", row.attempts)


def end_entry(row: JobRow) -> RunEntry:
    """How an attempt of a job ended."""
    return RunEntry("end", "", row.attempts, json.dumps(asdict(run_end(row))))


def end_entries(row: JobRow) -> list[RunEntry]:
    """How an attempt ended, and the seconds since its lease: the run's duration counts the time in the queue too."""
    took = [] if row.started is None else [RunEntry("metric", SECONDS, row.step, repr(row.updated - row.started))]
    return [*took, end_entry(row)]


def run_end(row: JobRow) -> RunEnd:
    """How the run of a job stands, by the job's row."""
    if row.state == "stopped":
        tags = {"lorafleet.stopped_at": str(row.step), "lorafleet.stopped": row.error or ""}
        return RunEnd("KILLED", tags=tags)  # FINISHED would look like a winner of its sweep
    if row.state == "succeeded":
        return RunEnd("FINISHED")
    if row.state == "cancelled":
        return RunEnd("KILLED", row.error)
    return RunEnd("FAILED" if row.state == "failed" else "RUNNING", row.error)
