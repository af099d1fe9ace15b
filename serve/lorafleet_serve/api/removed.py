"""Adapters that a running server holds or knows and that are registered no longer: they leave it, asked for or not.

Knows the registry's port and an engine's caches; refuses to know HTTP. An image that is being made with such an adapter
is finished, and its memory is freed at the next look. While the registry does not answer everything stays.
"""

from __future__ import annotations

import logging
import threading

from cachetools import LRUCache

from lorafleet.bundle.ports import AdapterRegistry, AdapterVersion
from lorafleet.errors import LorafleetError
from lorafleet_serve.adapters.resolver import MAX_ANSWERS, Resolver
from lorafleet_serve.engine.engine import StepEngine

DISK_EVERY = 12
"""Looks from one at the whole disk cache to the next: that is for bundles that nobody here has asked for lately."""
LEAST_SECONDS = 1.0
log = logging.getLogger(__name__)


class RemovalWatch:
    """Which adapters an engine holds and a resolver knows, and whether they are still registered. Thread-safe."""

    def __init__(self, engine: StepEngine, registry: AdapterRegistry, resolver: Resolver) -> None:
        self._engine, self._registry, self._resolver = engine, registry, resolver
        self._lock = threading.Lock()  # guards the next
        self._used: LRUCache[str, AdapterVersion] = LRUCache(MAX_ANSWERS)  # by the bundle's folder
        self._closed = threading.Event()
        self._looks = 0

    def used(self, adapter: AdapterVersion) -> None:
        """Notes that an adapter was resolved for a request."""
        with self._lock:
            self._used[str(adapter.path.resolve())] = adapter

    def held(self) -> list[AdapterVersion]:
        """The adapters in the engine's memory."""
        folders = self._engine.adapters_held()
        with self._lock:
            return [adapter for folder, adapter in self._used.items() if folder in folders]

    def look(self) -> tuple[AdapterVersion, ...]:
        """Frees what is registered no longer; returns it. Raises UnreachableError if the registry does not answer."""
        asked = {*self.held(), *self._resolver.known()}
        gone = self._registry.gone(asked) if asked else ()
        if gone:
            folders = {str(adapter.path.resolve()) for adapter in gone}
            for adapter in gone:
                self._resolver.drop(adapter.name)
            self._engine.host_cache.evict(folders)
            self._engine.device_cache.evict(folders)
            self._engine.model.forget_prompts()
        if self._looks % DISK_EVERY == 0:
            self._registry.drop_unregistered()
        self._looks += 1
        return gone

    def start(self, every: float) -> None:
        """Looks every so many seconds, from a thread, until it is closed."""
        pause = max(every, LEAST_SECONDS)
        threading.Thread(target=self._run, args=(pause,), name="removal-watch", daemon=True).start()

    def close(self) -> None:
        """Looks no more."""
        self._closed.set()

    def _run(self, pause: float) -> None:
        was_away = False
        while not self._closed.wait(pause):
            try:
                for adapter in self.look():
                    log.info("%s@%d is registered no longer, and leaves memory", adapter.name, adapter.version)
                was_away = False
            except (LorafleetError, OSError) as problem:  # asked again, as long as it takes
                if not was_away:
                    log.warning("whether adapters were removed is not known: %s", problem)
                was_away = True
