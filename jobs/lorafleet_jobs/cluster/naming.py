"""Which Ray somebody named, where, and whether anything answers there. Imports no Ray: that takes seconds."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lorafleet.errors import UnreachableError, first_line
from lorafleet.util.reach import await_rpc

LOCAL = "local"
"""The address that means a Ray of our own."""


@dataclass(frozen=True)
class Named:
    """A cluster that somebody named."""

    address: str
    source: str
    """Where it is named, as in "RAY_ADDRESS"."""
    remedy: str
    """How not to name it."""

    def check(self) -> None:
        """Raises UnreachableError within seconds if no Ray is there; Ray itself would go on trying for minutes."""
        try:
            answers(self.address)
        except OSError as problem:
            raise self.unreachable(problem) from None

    def unreachable(self, problem: Exception) -> UnreachableError:
        """The error that says what was tried, where it is named, and how to clear it."""
        line = first_line(problem, 200)
        return UnreachableError(
            f"no Ray answers at {self.address!r}, which {self.source} names ({line}); start it, or {self.remedy}"
        )


def named_cluster(address: str | None) -> Named | None:
    """What --address or RAY_ADDRESS names, `auto` being what Ray's own file says; None for none, and for `local`.

    UnreachableError if it is `auto` and no Ray runs here.
    """
    if address:
        named = Named(address, "--address", "correct --address or leave it out")
    elif environment := os.environ.get("RAY_ADDRESS"):
        named = Named(environment, "RAY_ADDRESS", "correct RAY_ADDRESS, or unset it to train here")
    else:
        return None
    if named.address == LOCAL:
        return None
    return _of_file(named) if named.address == "auto" else named


def current_cluster() -> Path:
    """Where `ray start` writes the address of what it started here."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"


def answers(address: str) -> None:
    """Raises OSError within seconds if no Ray is there, as far as an address says where that is."""
    host_and_port = address.removeprefix("ray://")
    if host_and_port.rpartition(":")[2].isdecimal():
        await_rpc(host_and_port)


def _of_file(named: Named) -> Named:
    file = current_cluster()
    try:
        address = file.read_text().strip()
    except OSError:
        raise UnreachableError(
            f"{named.source} is 'auto', but no Ray runs here ({file} is missing); start it, or {named.remedy}"
        ) from None
    return Named(address, f"{named.source}=auto, from {file}", f"delete that file (`ray stop` does) or {named.remedy}")
