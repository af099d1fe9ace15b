"""The command `ui`: MLflow's pages, opened where the submission or the adapter is."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import webbrowser
from typing import Annotated

import typer

from lorafleet.console import err
from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet.tracking.client import connect
from lorafleet.tracking.pages import page_of
from lorafleet.util.addresses import shown
from lorafleet.util.child_server import run_server
from lorafleet.util.tracking_server import is_server

STARTS_WITHIN = 120.0
"""Seconds that MLflow's server is given to answer before its page is opened."""


def ui(
    wanted: Annotated[
        str | None,
        typer.Argument(
            metavar="[SUBMISSION|ADAPTER]",
            show_default=False,
            help=r"Whose page to open: a submission's runs side by side, or NAME\[@VERSION|ALIAS] in the registry.",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
    browser: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open", help="Open a browser; by default where there is a screen.", show_default=False
        ),
    ] = None,
) -> int:
    """Open MLflow's pages on 127.0.0.1, until interrupted: a submission's runs side by side, or an adapter's versions.

    Exit code 3: there is no such submission or adapter.
    """
    home = Home.from_environment()
    page, opens = page_of(home.tracking_uri, wanted), has_screen() if browser is None else browser
    if is_server(home.tracking_uri):
        url = f"{shown(home.tracking_uri).rstrip('/')}/{page}"
        err.print(f"MLflow: {url}", markup=False, soft_wrap=True)
        if opens:
            webbrowser.open(url)
        return 0
    home.artifacts.mkdir(parents=True, exist_ok=True)
    connect(home.tracking_uri)  # a missing database is made here, under a lock, and not by the server without one
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", home.tracking_uri, "--artifacts-destination", home.artifacts.as_uri(),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}/{page}"
    err.print(f"MLflow: {url}\n(it takes some seconds to answer; Ctrl-C ends it)", markup=False, soft_wrap=True)
    if opens:
        threading.Thread(target=_open_once_it_answers, args=(port, url), daemon=True).start()
    log = home.root / "mlflow-server.log"
    with log.open("ab") as stream:
        code = run_server(command, stream)
    if code:
        raise UnreachableError(f"MLflow's server ended with exit code {code}; see {log}")
    return 0


def has_screen() -> bool:
    """Whether somebody sits here who would see a browser: a terminal, and a desktop around it."""
    desktop = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return desktop and sys.stderr.isatty()


def _open_once_it_answers(port: int, url: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                webbrowser.open(url)
                return
        time.sleep(0.2)
