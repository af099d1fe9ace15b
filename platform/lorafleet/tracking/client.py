"""How MLflow is reached: a quiet client, quick to give up, whose failures become one line."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from lorafleet.errors import NotFoundError, UnreachableError
from lorafleet.util import reach
from lorafleet.util.addresses import sqlite_file, tracking_address
from lorafleet.util.locked import file_lock
from lorafleet.util.tracking_server import advice, is_server, knock

ABSENT = "RESOURCE_DOES_NOT_EXIST"
PRESENT = "RESOURCE_ALREADY_EXISTS"
REFUSED = frozenset({ABSENT, PRESENT, "INVALID_PARAMETER_VALUE", "INVALID_STATE"})
"""Errors that are about what was asked, so that asking again cannot help."""


def connect(uri: str) -> Any:
    """A client for tracking and registry at `uri` that says nothing on stderr; a missing database is created.

    Raises UnreachableError if the database cannot be opened, SettingsError for an address that is none.
    """
    uri = tracking_address(uri)
    reach.ask_directly(uri)
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if (database := sqlite_file(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    try:
        if is_server(uri):
            return MlflowClient(uri, registry_uri=uri)
        with file_lock(_lock_of(uri, database)):  # MLflow makes its tables without one
            if database is not None:
                is_new = not database.exists()
                sqlite3.connect(database).close()  # MLflow itself would go on trying for minutes
                if is_new:
                    _make_tables(uri, database)
            return MlflowClient(uri, registry_uri=uri)
    except (sqlite3.Error, SQLAlchemyError) as problem:
        raise UnreachableError(advice(uri, problem)) from None


def _make_tables(uri: str, database: Path) -> None:
    """Makes MLflow's tables as MLflow does, its experiment `Default` beside them and not in the current folder."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, database.with_name("artifacts").resolve().as_uri())


def _lock_of(uri: str, database: Path | None) -> Path:
    """The file that is locked while tables may be made: beside the database, or this user's for this address."""
    if database is not None:
        return database.with_name(f"{database.name}.lock")
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lorafleet-{os.getuid()}" / f"{name}.lock"


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns an outage inside the block into UnreachableError; errors about the request itself pass through."""
    try:
        knock(uri)
        yield
    except MlflowException as problem:
        if problem.error_code in REFUSED:
            raise
        raise UnreachableError(advice(uri, problem)) from None
    except (ConnectionError, TimeoutError, socket.gaierror) as problem:
        if isinstance(problem, UnreachableError):
            raise
        raise UnreachableError(advice(uri, problem)) from None


@contextmanager
def reaching_run(uri: str, run_id: str) -> Iterator[None]:
    """As `reaching`; that MLflow does not know the run is NotFoundError, for asking again cannot help."""
    try:
        with reaching(uri):
            yield
    except MlflowException as problem:
        if problem.error_code != ABSENT:
            raise
        raise NotFoundError(no_such_run(uri, run_id)) from None


def no_such_run(uri: str, run_id: str) -> str:
    """What to do about a run that its driver has opened and MLflow does not know here."""
    return (
        f"MLflow at {uri} does not know run {run_id}, which the driver has opened: it was deleted, or this machine has "
        "another database under that address; give all machines one MLflow server with MLFLOW_TRACKING_URI=http://..."
    )
