"""The tables of the job database, each made from its dataclass, and how that database is opened.

Knows columns; refuses to know which changes of a row are allowed (`job_state`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError
from sqlalchemy.types import TypeDecorator, TypeEngine

from lorafleet.bundle.ports import EntryKind
from lorafleet.config import Resources
from lorafleet.errors import UnreachableError, first_line
from lorafleet.util.addresses import shown, sqlite_file
from lorafleet.util.locked import file_lock
from lorafleet_jobs.jobqueue.job_state import JobRow

BUSY_MILLISECONDS = 20_000
ADVISORY_LOCK = 0x10_4A_F1_EE
"""The number, arbitrary and used by nobody else, of the lock that PostgreSQL holds while tables are made."""
KEY_LENGTH = 128
metadata = MetaData()


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
    """Its MLflow run, once the driver has opened one."""
    cluster: str | None = None
    """The Ray on which its lanes run; None before the first driver begins and after the last one has finalised it."""
    created: float = 0.0
    """Seconds since the epoch."""


@dataclass(frozen=True)
class DriverRow:
    """The lease of the process that drives a submission."""

    submission: str
    token: str
    """Differs from lease to lease."""
    host: str
    pid: int
    process_started: float
    """When the process began, as its host counts; a process id alone is used again."""
    expires: float
    """Seconds since the epoch; the driver renews it long before."""


@dataclass(frozen=True)
class ScoreRow:
    """The score of a job at a rung of its sweep, and what the job was told there."""

    submission: str
    job: str
    rung: int
    """The step at which the rung is."""
    subject: str
    attempt: int
    """The attempt that reported the score."""
    score: float
    bar: float | None
    goes_on: bool


@dataclass(frozen=True)
class LaneRow:
    """What a lane last said of itself."""

    submission: str
    lane: str
    host: str
    device: str
    """The GPU's name, or `CPU`."""
    doing: str
    """As `loading sdxl` or `training 4 jobs`."""
    busy: float | None
    """Percent of the GPU's time, or of the lane's CPUs'; None where the driver does not tell."""
    used_mib: int
    total_mib: int
    """Memory of the device: all that is used of a GPU, of a CPU what the lane's process holds."""
    updated: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class OutboxRow:
    """One thing for MLflow: a number, a picture, that an attempt began or ended. Kept as a marker once it is sent."""

    run_id: str
    kind: EntryKind
    key: str
    step: int
    """Of the training, or for `attempt` and `end` the number of the attempt."""
    submission: str
    milliseconds: int
    """When it was recorded first."""
    value: str
    picture: bytes | None
    sent: bool = False


class Json(TypeDecorator[BaseModel]):
    """A pydantic model in a column, as JSON text."""

    impl = Text
    cache_ok = True

    def __init__(self, model: type[BaseModel]) -> None:
        super().__init__()
        self.model = model

    def process_bind_param(self, value: BaseModel | None, dialect: Dialect) -> str | None:
        """From the model to the column."""
        return None if value is None else value.model_dump_json()

    def process_result_value(self, value: str | None, dialect: Dialect) -> BaseModel | None:
        """From the column to the model."""
        return None if value is None else self.model.model_validate_json(value)


def table_of(name: str, row: type, keys: tuple[str, ...], *more: Column[Any]) -> Table:
    """A table with one column for each field of the dataclass `row`; `keys` are the primary key."""
    hints = get_type_hints(row)
    columns = [_column(field.name, hints[field.name], field.name in keys) for field in dataclasses.fields(row)]
    return Table(name, metadata, *columns, *more)


def _column(name: str, hint: Any, is_key: bool) -> Column[Any]:
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    (kind,) = [option for option in options if option is not type(None)]
    return Column(name, _sql_type(kind, is_key), primary_key=is_key, nullable=type(None) in options)


def _sql_type(kind: Any, is_key: bool) -> TypeEngine[Any]:
    if kind is str or get_origin(kind) is Literal:
        return String(KEY_LENGTH) if is_key else Text()
    if issubclass(kind, BaseModel):
        return Json(kind)
    plain: dict[type, TypeEngine[Any]] = {bool: Boolean(), int: BigInteger(), float: Float(), bytes: LargeBinary()}
    return plain[kind]


submissions = table_of("submissions", SubmissionRow, ("id",))
drivers = table_of("drivers", DriverRow, ("submission",))
jobs = table_of("jobs", JobRow, ("submission", "id"), Column("revision", Integer, nullable=False, default=0))
outbox = table_of("outbox", OutboxRow, ("run_id", "kind", "key", "step"))
Index("outbox_unsent", outbox.c.sent, outbox.c.submission)
lanes = table_of("lanes", LaneRow, ("submission", "lane"))
scores = table_of("scores", ScoreRow, ("submission", "job", "rung"))


def values_of(row: Any) -> dict[str, Any]:
    """The columns of a dataclass row."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}


def job_row(record: Row[tuple[object, ...]]) -> JobRow:
    """A job as a record of the table `jobs` has it."""
    return JobRow(**{name: value for name, value in record._mapping.items() if name != "revision"})


def insert_into(engine: Engine, table: Table) -> Any:
    """An insert in the database's own dialect, which knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[engine.dialect.name](table)


def transaction(engine: Engine) -> AbstractContextManager[Connection]:
    """A block of statements that happen together or not at all; outside of one, each statement stands alone."""
    level: IsolationLevel = "SERIALIZABLE" if engine.dialect.name == "sqlite" else "READ COMMITTED"
    return engine.execution_options(isolation_level=level).begin()


def open_database(url: str) -> Engine:
    """The database at `url`, with every table; missing ones are made.

    Raises UnreachableError if it cannot be opened or written, or if its tables have other columns than these.
    """
    try:
        engine = create_engine(_with_driver(url), isolation_level="AUTOCOMMIT", pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune_sqlite)
        with _one_process_at_a_time(engine, url):
            metadata.create_all(engine)
        _check_columns(engine, url)
    except ModuleNotFoundError as problem:
        raise UnreachableError(f"{shown(url)} needs {problem.name}; pip install 'lorafleet[postgres]'") from None
    except (OperationalError, ProgrammingError, ArgumentError, OSError) as problem:
        raise UnreachableError(
            f"the job rows at {shown(url)} cannot be opened ({first_line(problem)}); make the folder writable, correct "
            "LORAFLEET_DATABASE_URL, or set LORAFLEET_HOME to another place"
        ) from None
    return engine


def _check_columns(engine: Engine, url: str) -> None:
    inspector = inspect(engine)
    for table in metadata.tables.values():
        there = {column["name"] for column in inspector.get_columns(table.name)}
        if different := there ^ {column.name for column in table.columns}:
            raise UnreachableError(
                f"the job rows at {shown(url)} were written by another version of lorafleet (table {table.name} "
                f"differs in {', '.join(sorted(different))}); let that version finish them, or set LORAFLEET_HOME or "
                "LORAFLEET_DATABASE_URL to another place"
            )


def _with_driver(url: str) -> URL:
    """`postgresql://`, as everybody writes it, means the driver that is pinned."""
    parsed = make_url(url)
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


@contextmanager
def _one_process_at_a_time(engine: Engine, url: str) -> Iterator[None]:
    """Held while tables are made: two processes that both find a table missing would both create it."""
    if engine.dialect.name == "sqlite":
        file = sqlite_file(url)
        with nullcontext() if file is None else file_lock(file.with_name(f"{file.name}.lock")):
            yield
        return
    with engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": ADVISORY_LOCK})
        try:
            yield
        finally:
            holder.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": ADVISORY_LOCK})


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
