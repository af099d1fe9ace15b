"""Waits for Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def until_told_to_stop() -> None:
    """Returns when the process gets SIGINT or SIGTERM; call it from the main thread."""
    told = threading.Event()

    def tell(_number: int, _frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        told.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
