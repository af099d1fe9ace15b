"""Adapters on the device: which are there, which are in use, and which are evicted first.

`Slots` decides and knows numbers only. `DeviceAdapterCache` holds the tensors: it copies flat adapters from host
memory, each once for all the rows that use it. One thread leases; any thread releases.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from lorafleet.errors import RequestError
from lorafleet_serve.adapters.host_cache import HostAdapter, Key
from lorafleet_serve.adapters.layout import FlatAdapter
from lorafleet_serve.stats import Counts
from lorafleet_serve.worker_thread import synchronize


@dataclass
class Slot:
    """One adapter on the device: its size, and how many leases it has."""

    nbytes: int
    pins: int = 0


@dataclass
class Slots:
    """LRU bookkeeping within `capacity` bytes: the least recently used slot is evicted first, a pinned one never."""

    capacity: int
    held: OrderedDict[Key, Slot] = field(default_factory=OrderedDict)
    """Least recently used first."""

    @property
    def nbytes(self) -> int:
        """The bytes of all slots."""
        return sum(slot.nbytes for slot in self.held.values())

    def admits(self, wanted: Mapping[Key, int]) -> bool:
        """Whether `wanted`, bytes by key, fits beside what is pinned now."""
        others = sum(slot.nbytes for key, slot in self.held.items() if slot.pins and key not in wanted)
        return others + sum(wanted.values()) <= self.capacity

    def pin(self, wanted: Mapping[Key, int]) -> tuple[list[Key], list[Key]]:
        """Pins `wanted`, which `admits` must allow; returns the new keys, which must be loaded, and the evicted."""
        new = [key for key in wanted if key not in self.held]
        for key, nbytes in wanted.items():
            self.held.setdefault(key, Slot(nbytes)).pins += 1
            self.held.move_to_end(key)
        evicted = []
        for key in [key for key, slot in self.held.items() if not slot.pins]:
            if self.nbytes <= self.capacity:
                break
            del self.held[key]
            evicted.append(key)
        return new, evicted

    def unpin(self, keys: Collection[Key]) -> None:
        """Removes one pin of each."""
        for key in keys:
            self.held[key].pins -= 1

    def unpinned(self, folders: Collection[str]) -> list[Key]:
        """The slots of adapters from these bundle folders that no lease holds."""
        return [key for key, slot in self.held.items() if key[0] in folders and not slot.pins]

    def drop(self, keys: Collection[Key]) -> None:
        """Removes slots, of adapters that could not be loaded or that are not to stay."""
        for key in keys:
            del self.held[key]


class DeviceAdapterCache:
    """The adapters' tensors on the device, kept by the rules of `Slots`. Thread-safe, except that one thread leases."""

    def __init__(self, device: torch.device, capacity: int, counts: Counts) -> None:
        self._device, self._counts = device, counts
        self._slots = Slots(capacity)
        self._tensors: dict[Key, FlatAdapter] = {}
        self._lock = threading.Lock()  # guards the two above

    def check(self, hosts: Sequence[HostAdapter]) -> None:
        """RequestError if these adapters can never be on the device together."""
        needed, capacity = sum(_wanted(hosts).values()), self._slots.capacity
        if needed > capacity:
            raise RequestError(
                f"the request's adapters need {needed} bytes on the device; at most {capacity} are allowed; name fewer "
                "or smaller adapters, or raise the server's slot bytes"
            )

    def admits(self, hosts: Sequence[HostAdapter]) -> bool:
        """Whether these adapters can be leased now."""
        with self._lock:
            return self._slots.admits(_wanted(hosts))

    def lease(self, hosts: Sequence[HostAdapter]) -> None:
        """Copies adapters to the device where they are not there yet, and keeps them there until `release`."""
        wanted = _wanted(hosts)
        with self._lock:
            new, evicted = self._slots.pin(wanted)
            for key in evicted:
                del self._tensors[key]
        self._counts.add(slot_hits=len(wanted) - len(new), slot_misses=len(new), slot_evictions=len(evicted))
        with ExitStack() as undo:
            undo.callback(self._undo, wanted, new)
            self._load([host for host in hosts if host.key in new])
            undo.pop_all()

    def release(self, hosts: Sequence[HostAdapter]) -> None:
        """Ends one lease of these adapters."""
        with self._lock:
            self._slots.unpin(_wanted(hosts))

    def evict(self, folders: Collection[str]) -> None:
        """Frees the adapters of these bundle folders, but for those that are leased now."""
        with self._lock:
            unpinned = self._slots.unpinned(folders)
            self._slots.drop(unpinned)
            for key in unpinned:
                del self._tensors[key]

    def get(self, host: HostAdapter) -> FlatAdapter:
        """A leased adapter's tensors on the device."""
        with self._lock:
            return self._tensors[host.key]

    def held(self) -> set[Key]:
        """The keys of the adapters on the device."""
        with self._lock:
            return set(self._tensors)

    @property
    def nbytes(self) -> int:
        """The bytes of the adapters on the device."""
        with self._lock:
            return self._slots.nbytes

    def _load(self, hosts: Sequence[HostAdapter]) -> None:
        started = time.perf_counter()
        for host in hosts:
            assert host.flat is not None  # only adapters with UNet layers have a slot
            loaded = host.flat.to(self._device)
            with self._lock:
                self._tensors[host.key] = loaded
        synchronize(self._device)
        self._counts.add(swap_seconds=time.perf_counter() - started)

    def _undo(self, wanted: Collection[Key], new: Collection[Key]) -> None:
        with self._lock:
            self._slots.unpin(wanted)
            self._slots.drop([key for key in new if key not in self._tensors])


def _wanted(hosts: Sequence[HostAdapter]) -> dict[Key, int]:
    return {host.key: host.flat.nbytes for host in hosts if host.flat is not None}
