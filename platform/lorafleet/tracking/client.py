"""How MLflow is reached: a quiet client, quick to give up, whose failures become one line."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# MLflow's own defaults are 7 retries and 120 s: one dead server would stall a lane for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout belongs to the user's data

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from lorafleet.errors import UnreachableError

KNOCK_SECONDS = 3.0
ABSENT = "RESOURCE_DOES_NOT_EXIST"
PRESENT = "RESOURCE_ALREADY_EXISTS"
REFUSED = frozenset({ABSENT, PRESENT, "INVALID_PARAMETER_VALUE", "INVALID_STATE"})
"""Errors that are about what was asked, so that asking again cannot help."""


def connect(uri: str) -> Any:
    """A client for tracking and registry at `uri` that says nothing on stderr; a missing database is created.

    Raises UnreachableError if the database cannot be opened.
    """
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if (database := sqlite_file(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    try:
        if database is not None:
            sqlite3.connect(database).close()  # MLflow itself would go on trying for minutes
        return MlflowClient(uri, registry_uri=uri)
    except (sqlite3.Error, SQLAlchemyError) as problem:
        raise UnreachableError(_advice(uri, problem)) from None


def sqlite_file(uri: str) -> Path | None:
    """The file behind a `sqlite:///` address, None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def is_server(uri: str) -> bool:
    """Whether `uri` is an HTTP server, which has artifact storage of its own."""
    return urlsplit(uri).scheme in ("http", "https")


def knock(uri: str) -> None:
    """Raises OSError within seconds if nobody listens at a server's address; other addresses pass."""
    if is_server(uri):
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=KNOCK_SECONDS).close()


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns an outage inside the block into UnreachableError; errors about the request itself pass through."""
    try:
        knock(uri)
        yield
    except MlflowException as problem:
        if problem.error_code in REFUSED:
            raise
        raise UnreachableError(_advice(uri, problem)) from None
    except (ConnectionError, TimeoutError, socket.gaierror) as problem:
        if isinstance(problem, UnreachableError):
            raise
        raise UnreachableError(_advice(uri, problem)) from None


def _advice(uri: str, problem: Exception) -> str:
    lines = str(problem).splitlines() or [type(problem).__name__]
    return (
        f"MLflow at {uri} does not answer ({lines[0][:200]}); "
        "start it, correct MLFLOW_TRACKING_URI, or unset it to use SQLite under the home"
    )
