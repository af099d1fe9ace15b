"""Whether MLflow's server can be reached at all, asked without importing MLflow, and what to do if it cannot."""

from __future__ import annotations

from urllib.parse import urlsplit

from lorafleet.errors import UnreachableError
from lorafleet.util import reach


def is_server(uri: str) -> bool:
    """Whether `uri` is an HTTP server, which has artifact storage of its own."""
    return urlsplit(uri).scheme in ("http", "https")


def knock(uri: str) -> None:
    """Raises OSError within seconds if nobody listens at a server's address; other addresses pass."""
    if is_server(uri):
        reach.probe_url(uri)


def reach_tracking(uri: str) -> None:
    """Raises UnreachableError, with the remedy, if nobody listens at a server's address; other addresses pass."""
    try:
        knock(uri)
    except OSError as problem:
        raise UnreachableError(advice(uri, problem)) from None


def advice(uri: str, problem: Exception) -> str:
    """That MLflow does not answer at an address, why, and what to do."""
    lines = str(problem).splitlines() or [type(problem).__name__]
    return (
        f"MLflow at {uri} does not answer ({lines[0][:200]}); "
        "start it, correct MLFLOW_TRACKING_URI, or unset it to use SQLite under the home"
    )
