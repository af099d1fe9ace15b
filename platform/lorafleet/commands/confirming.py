"""Asks before something is deleted that cannot be made again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lorafleet.errors import RequestError

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]


def confirm(what: str, yes: bool) -> None:
    """Returns if the user agrees, else ends the command. RequestError where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise RequestError(f"{what}; this cannot be undone, and nobody can be asked here: repeat it with --yes")
    typer.confirm(f"{what}; this cannot be undone. Go on?", default=False, abort=True, err=True)
