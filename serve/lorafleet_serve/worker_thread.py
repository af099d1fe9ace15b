"""A thread of its own for work that must not hold up the steps. Knows a queue and a device's streams, nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Stage(Generic[T]):
    """One thread that works through what is put, in order. What `work` raises ends it; `ended` is told of every end.

    Whoever puts must bound how much waits here.
    """

    def __init__(self, name: str, work: Callable[[T], None], ended: Callable[[], None], device: torch.device) -> None:
        self._work, self._ended, self._device = work, ended, device
        self._queue: SimpleQueue[tuple[T] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    def put(self, item: T) -> None:
        """Leaves an item; returns at once."""
        self._queue.put((item,))

    def close(self) -> None:
        """Returns once everything put so far is done."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with own_stream(self._device):
                while (item := self._queue.get()) is not None:
                    self._work(item[0])
                    del item  # lives on here until the next comes
        finally:
            self._ended()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Work inside runs beside that of other threads where the device can; `finished` makes it visible to them."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield


def finished(device: torch.device) -> None:
    """Waits for this thread's work on the device, so that what it made can be handed to another thread."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
