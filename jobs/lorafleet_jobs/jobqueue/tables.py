"""The tables of submissions, jobs and scores, and how a database of any age is opened. Refuses to know transitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import (
    URL,
    Boolean,
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
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError
from sqlalchemy.schema import CreateColumn

from lorafleet.errors import UnreachableError, first_line
from lorafleet.util.addresses import shown, sqlite_file
from lorafleet.util.locked import file_lock

BUSY_MILLISECONDS = 20_000
MAKING = 0x10_4A_F1_EE
"""The advisory lock, any number nobody else takes, that PostgreSQL holds while tables are made."""
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
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("run_id", String(128)),
    Column("cluster", String(128)),
    Column("driven_until", Float),
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
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False),
    Column("lane", String(128)),
    Column("step", Integer, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("loss", Float),
    Column("version", Integer),
    Column("run_id", String(128)),
    Column("kind", String(16)),
    Column("error", Text),
    Column("not_before", Float),
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("lanes_lost", Integer, nullable=False, server_default="0"),
    Column("furthest", Integer, nullable=False, server_default="0"),
    Column("pack_limit", Integer),
    Column("seed_shift", Integer, nullable=False, server_default="0"),
    Column("lease_expires", Float),
    Column("started", Float),
    Column("stepping_since", Float),
    Column("stepping_from", Integer, nullable=False, server_default="0"),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("revision", Integer, nullable=False, default=0),
)
scores = Table(  # of jobs with early_stop
    "scores",
    metadata,
    Column("submission", String(128), primary_key=True),
    Column("job", String(128), primary_key=True),
    Column("rung", Integer, primary_key=True),  # the step at which it is
    Column("subject", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),  # that wrote it
    Column("score", Float, nullable=False),
    Column("bar", Float),
    Column("goes_on", Boolean, nullable=False),
)
GONE = {"jobs": ("limit",)}
"""Columns of earlier releases that would refuse a row without them."""


def open_database(url: str) -> Engine:
    """The database at `url`, with every table and column; a missing one is made, an older one brought up to date.

    Raises UnreachableError if it cannot be opened or written.
    """
    try:
        engine = create_engine(_with_driver(url), isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune_sqlite)
        with _making(engine, url):
            metadata.create_all(engine)
            for table in metadata.tables.values():
                _renew(engine, table)
    except ModuleNotFoundError as problem:
        raise UnreachableError(f"{shown(url)} needs {problem.name}; pip install 'lorafleet[postgres]'") from None
    except (OperationalError, ProgrammingError, ArgumentError, OSError) as problem:
        raise UnreachableError(
            f"the job rows at {shown(url)} cannot be opened ({first_line(problem)}); make the folder writable, correct "
            "LORAFLEET_DATABASE_URL, or set LORAFLEET_HOME to another place"
        ) from None
    return engine


def _with_driver(url: str) -> URL:
    """`postgresql://`, as everybody writes it, means the driver that is pinned."""
    parsed = make_url(url)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


@contextmanager
def _making(engine: Engine, url: str) -> Iterator[None]:
    """One process at a time inside the block; a lock ends with its process."""
    if engine.dialect.name == "sqlite":
        file = sqlite_file(url)
        with nullcontext() if file is None else file_lock(file.with_name(f"{file.name}.lock")):
            yield
        return
    with engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MAKING})
        try:
            yield
        finally:
            holder.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": MAKING})


def _renew(engine: Engine, table: Table) -> None:
    """Adds the columns that an older database lacks, and drops those that are in the way."""
    there = {column["name"] for column in inspect(engine).get_columns(table.name)}
    quote = engine.dialect.identifier_preparer.quote
    changes = [f"ADD COLUMN {CreateColumn(one).compile(engine)}" for one in table.columns if one.name not in there]
    changes += [f"DROP COLUMN {quote(name)}" for name in GONE.get(table.name, ()) if name in there]
    for change in changes:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {quote(table.name)} {change}")


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
