"""Addresses of databases and of MLflow: checked, and made absolute once, by whoever starts something.

A lane's current folder is not its driver's, so a relative address would name another database there. Knows URLs and
paths; refuses to know environment variables and what lies at an address.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from lorafleet.errors import SettingsError

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
WANTED = "a server (http://HOST:PORT) or a database (sqlite:///FILE, postgresql://...)"


def sqlite_url(path: Path, name: str = "LORAFLEET_HOME", scheme: str = "sqlite") -> str:
    """The URL of an SQLite file; SettingsError, with the variable that says where it is, if no URL can say it.

    SQLAlchemy could be told any path, escaped; MLflow makes folders of what is escaped as it stands.
    """
    url = f"{scheme}:///{path}"
    if make_url(url).database != str(path):
        odd = " and ".join(repr(one) for one in "%?" if one in str(path))
        raise SettingsError(
            f"{path} cannot be a database's address, because of {odd} in it; set {name} to a folder without"
        )
    return url


def sqlite_file(url: str) -> Path | None:
    """The file behind the URL of an SQLite database, None for any other."""
    if not url.startswith("sqlite"):
        return None
    database = make_url(url).database
    return Path(database) if database else None


def database_address(said: str, name: str) -> str:
    """A database's URL as it can be told to any process of this machine: an SQLite file's path is absolute.

    `name` is the variable that said it. SettingsError for what is no URL, or a database in memory.
    """
    try:
        url = make_url(said)
    except (ArgumentError, ValueError):
        raise SettingsError(f"{name} is {shown(said)!r}, which is no database's URL; set {WANTED}") from None
    if url.get_backend_name() != "sqlite" or (url.database or "").startswith("file:"):
        return said
    if url.host:
        raise SettingsError(f"{name} is {shown(said)!r}: SQLite needs three slashes; set sqlite:///{url.host}")
    if url.database in (None, "", ":memory:"):
        raise SettingsError(f"{name} is {shown(said)!r}, a database in memory that no lane can see; set sqlite:///FILE")
    file = Path(str(url.database))
    if file.is_absolute():
        return said
    _, separator, query = said.partition("?")
    return sqlite_url(file.absolute(), name, url.drivername) + separator + query


def tracking_address(said: str, name: str = "MLFLOW_TRACKING_URI") -> str:
    """MLflow's address as any process of this machine can be told it; SettingsError for what cannot be used."""
    scheme, separator, _ = said.partition("://")
    kind = scheme.partition("+")[0].lower() if separator else ""
    if kind in SERVERS:
        _check_server(said, name)
        return said
    if kind in DATABASES:
        return database_address(said, name)
    if said.startswith("databricks"):
        return said
    if kind not in ("", "file"):
        raise SettingsError(f"{name} is {shown(said)!r}; {kind}:// is not taken, set {WANTED}")
    if not separator and re.fullmatch(r"[\w.-]+:\d+(/.*)?|\[[0-9a-fA-F:]+\](:\d+)?(/.*)?", said):
        raise SettingsError(f"{name} is {shown(said)!r}, without http://; set {name}=http://{shown(said)}")
    raise SettingsError(
        f"{name} is {shown(said)!r}, a folder: MLflow's file store is not taken; several processes cannot share "
        f"it. Set {WANTED}, or unset it to use SQLite under the home"
    )


def shown(url: str) -> str:
    """An address without what stands before the @: it may be a password."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _check_server(said: str, name: str) -> None:
    try:
        parts = urlsplit(said)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise SettingsError(f"{name} is {shown(said)!r}, which names no host and port; set http://HOST:PORT")
