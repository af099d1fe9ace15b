"""SQLite files that keep nothing of what was deleted from them. Knows files; refuses to know tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

WAIT_SECONDS = 20.0


def rewrite(file: Path) -> bool:
    """Writes a database anew without its free pages, in which deleted rows stay legible; False if it is in use.

    What the write-ahead log holds goes as well. Other processes may have the database open, but must not be writing
    to it all the time. Raises sqlite3.DatabaseError if the file is no database.
    """
    with closing(sqlite3.connect(file, timeout=WAIT_SECONDS, isolation_level=None)) as connection:
        try:
            connection.execute("VACUUM")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) and "busy" not in str(problem):
                raise
            return False
    return not busy
