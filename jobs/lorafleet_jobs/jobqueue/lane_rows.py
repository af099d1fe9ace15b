"""What lanes say of themselves while they live, as rows in SQL: for people who watch, and for nothing else."""

from __future__ import annotations

from sqlalchemy import Engine, select

from lorafleet_jobs.jobqueue.tables import LaneRow, insert_into, lanes, values_of

SILENT_SECONDS = 15.0
"""A lane that has said nothing for so long is gone, or cannot be reached."""


class LaneBook:
    """The lanes of one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, row: LaneRow) -> None:
        """Writes what a lane says, over what it said before."""
        insert = insert_into(self._engine, lanes).values(values_of(row))
        changes = {name: value for name, value in values_of(row).items() if name not in ("submission", "lane")}
        with self._engine.connect() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["submission", "lane"], set_=changes))

    def living(self, submission: str, now: float) -> tuple[LaneRow, ...]:
        """The lanes that have spoken within SILENT_SECONDS, by name."""
        asked = select(lanes).where(lanes.c.submission == submission, lanes.c.updated > now - SILENT_SECONDS)
        with self._engine.connect() as connection:
            return tuple(LaneRow(**record._mapping) for record in connection.execute(asked.order_by(lanes.c.lane)))
