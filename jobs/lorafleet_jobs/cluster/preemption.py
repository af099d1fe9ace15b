"""Whether this process was told to leave: by SIGTERM, as preempted machines send it, or by Ray's own notice."""

from __future__ import annotations

import signal
import time
from threading import Event
from types import FrameType
from typing import Any

import ray
from ray.train import get_preemption_info

LOOK_SECONDS = 5.0
_told = Event()


def listen() -> None:
    """From now on a first SIGTERM is a notice, and only a second one ends the process. For the main thread."""
    before = signal.getsignal(signal.SIGTERM)

    def note(_number: int, _frame: FrameType | None) -> None:
        _told.set()
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)


def listen_on_main_thread() -> None:
    """The same from a Ray Train loop, which runs beside the main thread: that one serves the actor's calls."""
    worker: Any = ray.get_runtime_context().current_actor
    worker.execute.remote(listen)


def signalled() -> bool:
    """Whether this process was, by SIGTERM; what Ray knows, all workers of a run must ask together, or none."""
    return _told.is_set()


class Preemption:
    """Says whether this lane, a worker without others, was told to leave; asks Ray only now and then."""

    def __init__(self) -> None:
        self._look_again = time.monotonic() + LOOK_SECONDS

    def __call__(self) -> bool:
        """Whether it was."""
        if time.monotonic() >= self._look_again and not _told.is_set():
            self._look_again = time.monotonic() + LOOK_SECONDS
            if get_preemption_info() is not None:
                _told.set()
        return _told.is_set()
