"""A server as a child of a command: however the command ends, the server and all that it started end too.

Between the two stands a small process of its own session, which holds the reading end of a pipe. The pipe ends when the
command is gone, killed or not; then everything in the session is ended. Knows processes; refuses to know servers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO

GRACE_SECONDS = 5.0
"""For a server to end by itself."""


def run_server(command: Sequence[str], log: IO[bytes]) -> int:
    """Runs a server, which writes to `log`, until it ends; returns its exit code.

    Told to end (SIGTERM, SIGHUP, Ctrl-C) it ends the server first and then raises SystemExit or KeyboardInterrupt.
    """
    guard = subprocess.Popen(
        [sys.executable, "-m", __name__, *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    assert guard.stdin is not None  # a pipe was asked for
    try:
        with _exit_when_told():
            return guard.wait()
    finally:
        guard.stdin.close()
        guard.wait()


@contextmanager
def _exit_when_told() -> Iterator[None]:
    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_session_with_the_pipe() -> None:
    while os.read(0, 1024):  # not by sys.stdin, whose lock would be held when the server ends by itself
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _main(command: Sequence[str]) -> int:
    """The process between: it stays until the server has ended, or ends everything when the pipe does."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # a handler, for what is ignored the server would ignore too
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_session_with_the_pipe, daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
