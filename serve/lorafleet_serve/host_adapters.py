"""Adapters in host memory: bundles read and checked against the base off the engine's thread, kept by bytes.

Knows folders and when a bundle was replaced. What a bundle must hold is for `lorafleet.adapters` to say.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lorafleet.adapters import Adapter, load_adapter
from lorafleet.bundle import CARD
from lorafleet.errors import BundleError
from lorafleet.loaded import LoadedBase


class AdapterShelf:
    """Host adapters by bundle folder: loaded once however many requests wait, least recently used dropped by bytes.

    Thread-safe. Rows that run hold their adapter themselves, so dropping one from the shelf never touches them.
    """

    def __init__(self, loaded: LoadedBase, capacity: int = 4 * 2**30, loaders: int = 2) -> None:
        self._loaded, self._capacity = loaded, capacity
        self._lock = threading.RLock()  # a load that is already done settles inside fetch
        self._held: OrderedDict[tuple[str, int], Future[Adapter]] = OrderedDict()
        self._pool = ThreadPoolExecutor(loaders, thread_name_prefix="adapter-loader")

    def fetch(self, path: Path) -> Future[Adapter]:
        """The adapter in a bundle folder, now or soon; the future holds BundleError if it cannot be used."""
        try:
            key = _identity(path)
        except BundleError as problem:
            failed: Future[Adapter] = Future()
            failed.set_exception(problem)
            return failed
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = self._pool.submit(self._load, path)
                held.add_done_callback(lambda done: self._settle(key, done))
            if key in self._held:
                self._held.move_to_end(key)
            return held

    def close(self) -> None:
        """Stops the loaders; nothing more can be fetched."""
        self._pool.shutdown(cancel_futures=True)

    def _load(self, path: Path) -> Adapter:
        return load_adapter(path, self._loaded)

    def _settle(self, key: tuple[str, int], done: Future[Adapter]) -> None:
        with self._lock:
            if done.cancelled() or done.exception() is not None:
                self._held.pop(key, None)
                return
            total = 0
            for other in reversed(list(self._held)):  # newest first
                future = self._held[other]
                if future.done() and not future.cancelled() and future.exception() is None:
                    total += future.result().nbytes
                    if total > self._capacity and other != key:
                        del self._held[other]


def _identity(path: Path) -> tuple[str, int]:
    """The folder and when its card was written: a bundle that was replaced is another adapter."""
    try:
        return str(path.resolve()), (path / CARD).stat().st_mtime_ns
    except OSError as problem:
        raise BundleError(
            f"{path}: no readable {CARD} ({problem.strerror}); train or fetch the adapter again"
        ) from None
