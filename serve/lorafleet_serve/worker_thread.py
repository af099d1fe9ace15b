"""A thread for work that must not delay the steps. Knows a queue and a device's streams, nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Stage(Generic[T]):
    """One thread that calls `work` on each item that is put, in order.

    What `work` raises ends the thread; `ended` is called whenever it ends. The queue has no bound of its own.
    """

    def __init__(self, name: str, work: Callable[[T], None], ended: Callable[[], None], device: torch.device) -> None:
        self._work, self._ended, self._device = work, ended, device
        self._queue: SimpleQueue[tuple[T] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Queues an item; returns at once."""
        self._queue.put((item,))

    def close(self) -> None:
        """Ends the thread after everything put so far is done, and waits for that."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with own_stream(self._device):
                while (item := self._queue.get()) is not None:
                    self._work(item[0])
                    del item  # it would be referenced until the next one comes
        finally:
            self._ended()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, work inside the context runs beside other threads' work; `synchronize` makes it visible to them."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield


def synchronize(device: torch.device) -> None:
    """Waits for this thread's work on the device, so that its results can be handed to another thread."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
