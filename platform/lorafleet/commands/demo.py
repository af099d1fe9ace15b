"""`lorafleet demo`: training, serving and pictures in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lorafleet.home import Home
from lorafleet.toy.run_demo import run_demo


def demo(
    base: Annotated[str, typer.Option(help="toy-playground or toy-sdxl.")] = "toy-playground",
    folder: Annotated[
        Path | None, typer.Option(help="The folder for everything it writes; <home>/demo by default.")
    ] = None,
    port: Annotated[int, typer.Option(help="The server's port; 0 picks a free one.")] = 0,
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Keep serving at the end; by default on a terminal.")
    ] = None,
) -> int:
    """Train six made-up subjects, serve them, and leave a contact sheet. Offline, on a CPU, in minutes."""
    where = folder or Home.from_environment().root / "demo"
    return run_demo(base, where, port, sys.stdin.isatty() if stay is None else stay)
