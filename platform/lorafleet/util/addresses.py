"""Checks addresses of databases and of MLflow, and makes them absolute, in the process that reads the environment.

A lane's current folder is not its driver's, so a relative address would mean another database there. Knows URLs and
paths; refuses to read environment variables and to connect to an address.
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
    """The URL of an SQLite file. Raises SettingsError, which names the variable `name`, if no URL can express the path.

    SQLAlchemy takes any path if it is escaped; MLflow makes folders with the escaped names.
    """
    url = f"{scheme}:///{path}"
    if make_url(url).database != str(path):
        odd = " and ".join(repr(character) for character in "%?" if character in str(path))
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


def database_address(address: str, name: str) -> str:
    """A database's URL with which any process of this machine reaches it: an SQLite file's path becomes absolute.

    `name` is the variable that held it. Raises SettingsError for what is no URL, and for a database in memory.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise SettingsError(f"{name} is {shown(address)!r}, which is no database's URL; set {WANTED}") from None
    if url.get_backend_name() != "sqlite" or (url.database or "").startswith("file:"):
        return address
    if url.host:
        raise SettingsError(f"{name} is {shown(address)!r}: SQLite needs three slashes; set sqlite:///{url.host}")
    if url.database in (None, "", ":memory:"):
        raise SettingsError(
            f"{name} is {shown(address)!r}, a database in memory that no lane can see; set sqlite:///FILE"
        )
    file = Path(str(url.database))
    if file.is_absolute():
        return address
    _, separator, query = address.partition("?")
    return sqlite_url(file.absolute(), name, url.drivername) + separator + query


def tracking_address(address: str, name: str = "MLFLOW_TRACKING_URI") -> str:
    """MLflow's address with which any process of this machine reaches it; SettingsError for what cannot be used."""
    scheme, separator, _ = address.partition("://")
    kind = scheme.partition("+")[0].lower() if separator else ""
    if kind in SERVERS:
        _check_server(address, name)
        return address
    if kind in DATABASES:
        return database_address(address, name)
    if address.startswith("databricks"):
        return address
    if kind not in ("", "file"):
        raise SettingsError(f"{name} is {shown(address)!r}; {kind}:// is not taken, set {WANTED}")
    if not separator and re.fullmatch(r"[\w.-]+:\d+(/.*)?|\[[0-9a-fA-F:]+\](:\d+)?(/.*)?", address):
        raise SettingsError(f"{name} is {shown(address)!r}, without http://; set {name}=http://{shown(address)}")
    raise SettingsError(
        f"{name} is {shown(address)!r}, a folder: MLflow's file store is not taken; several processes cannot share "
        f"it. Set {WANTED}, or unset it to use SQLite under the home"
    )


def shown(url: str) -> str:
    """An address without what stands before the @, because that may contain a password."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _check_server(address: str, name: str) -> None:
    try:
        parts = urlsplit(address)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise SettingsError(f"{name} is {shown(address)!r}, which names no host and port; set http://HOST:PORT")
