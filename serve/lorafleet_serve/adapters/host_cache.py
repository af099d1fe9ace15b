"""Adapters in host memory: bundles are read, checked against the base and laid out on loader threads, and kept (LRU).

Knows folders and when a bundle was replaced. What a bundle must hold is for `lorafleet.bundle.adapter` to say.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from lorafleet.bundle.adapter import Adapter, load_adapter
from lorafleet.bundle.bundle import CARD
from lorafleet.errors import BundleError
from lorafleet.loaded import LoadedBase
from lorafleet.targets import UNET
from lorafleet_serve.adapters.layout import ColumnLayout, FlatAdapter
from lorafleet_serve.stats import Counts

Key = tuple[str, int]
"""A bundle's folder and when its card was written: a bundle that was replaced is another adapter."""


@dataclass(frozen=True, eq=False)
class HostAdapter:
    """An adapter ready to be copied to the device."""

    key: Key
    adapter: Adapter
    """The adapter without its UNet layers."""
    flat: FlatAdapter | None
    """Its UNet layers, in the UNet's precision; None if it has none."""

    @property
    def nbytes(self) -> int:
        """Bytes held in host memory."""
        return self.adapter.nbytes + (0 if self.flat is None else self.flat.nbytes)


@dataclass(frozen=True)
class HostLoader:
    """Reads bundles for one base."""

    loaded: LoadedBase
    columns: ColumnLayout

    def __call__(self, key: Key) -> HostAdapter:
        """The adapter in a bundle's folder; BundleError says what does not fit."""
        adapter = load_adapter(Path(key[0]), self.loaded)
        layers = adapter.layers(UNET)
        flat = FlatAdapter.of(layers, self.columns, self.loaded.unet.dtype) if layers else None
        if flat is not None and self.loaded.device.type == "cuda":
            flat = flat.pinned()
        rest = {part: factors for part, factors in adapter.parts.items() if part != UNET}
        return HostAdapter(key, replace(adapter, parts=rest), flat)


class HostAdapterCache:
    """Host adapters by bundle folder: each loaded once however many requests wait; bounded by bytes (LRU).

    Thread-safe. Requests hold their adapters themselves, so dropping one from the cache never affects them.
    """

    def __init__(
        self, load: Callable[[Key], HostAdapter], counts: Counts, capacity: int = 4 * 2**30, loaders: int = 2
    ) -> None:
        self._load, self._counts, self._capacity = load, counts, capacity
        self._lock = threading.RLock()  # the callback of a load that is already done runs inside fetch
        self._held: OrderedDict[Key, Future[HostAdapter]] = OrderedDict()
        self._pool = ThreadPoolExecutor(loaders, thread_name_prefix="adapter-loader")

    def fetch(self, path: Path) -> Future[HostAdapter]:
        """A future of the adapter in a bundle folder; it holds BundleError if the bundle cannot be used."""
        try:
            key = _key(path)
        except BundleError as problem:
            failed: Future[HostAdapter] = Future()
            failed.set_exception(problem)
            return failed
        with self._lock:
            held = self._held.get(key)
            self._counts.add(host_hits=int(held is not None), host_misses=int(held is None))
            if held is None:
                held = self._held[key] = self._pool.submit(self._load, key)
                held.add_done_callback(lambda done: self._on_loaded(key, done))
            if key in self._held:
                self._held.move_to_end(key)
            return held

    def evict(self, folders: Collection[str]) -> None:
        """Drops the adapters of these bundle folders; requests that hold one already keep it until they end."""
        with self._lock:
            for key in [key for key in self._held if key[0] in folders]:
                del self._held[key]

    def held(self) -> set[Key]:
        """The keys of the adapters in host memory."""
        with self._lock:
            return {key for key, future in self._held.items() if future.done()}

    def close(self) -> None:
        """Stops the loaders; nothing more can be fetched."""
        self._pool.shutdown(cancel_futures=True)

    def _on_loaded(self, key: Key, done: Future[HostAdapter]) -> None:
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


def _key(path: Path) -> Key:
    try:
        return str(path.resolve()), (path / CARD).stat().st_mtime_ns
    except OSError as problem:
        raise BundleError(
            f"{path}: no readable {CARD} ({problem.strerror}); train or fetch the adapter again"
        ) from None
