"""Databases for the job rows: SQLite always, PostgreSQL where the distribution's packages have put it."""

from __future__ import annotations

import pytest

from lorafleet_jobs.store import sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "jobs.db")
    return request.getfixturevalue("empty_postgres")
