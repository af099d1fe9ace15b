"""Bundles on this machine's disk under the digest of their card, which covers every other file.

    <root>/<sha256 of adapter.json>/     a whole, verified bundle; seen whole or not at all
    <root>/.<digest>.<unique>/           a download in progress; deleted if its process has died
    <root>/.locks/<digest>.fetch, .pin   locks of whoever downloads and whoever uses it; .pin's time is the last use

Safe between processes and across kills: locks are the kernel's and end with their process. Knows files and digests;
refuses to know where bundles come from (`download` is passed in) and what is in them (`lorafleet.bundle.bundle` says).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from lorafleet.bundle.bundle import CARD, Bundle, read_bundle, sha256_of
from lorafleet.errors import BundleError
from lorafleet.util.counting import increased
from lorafleet.util.files import replace_folder
from lorafleet.util.locked import locked

CAPACITY = 20 * 2**30
LOCKS = ".locks"
Download = Callable[[Path], Path]
"""Downloads a bundle into an empty folder and returns its path, which may be a folder inside."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheStats:
    """Counts of this process, and the size of the cache, which all processes share."""

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    """Entries that did not match their digest and were fetched again."""
    evictions: int = 0
    bytes: int = 0


@dataclass
class Verifier:
    """Reads bundles and hashes each only once, until one of its files changes size or time."""

    _seen: dict[Path, tuple[object, Bundle]] = field(default_factory=dict)

    def bundle(self, path: Path) -> Bundle:
        """The verified bundle in a folder; BundleError as from `read_bundle`."""
        looks = _looks(path)
        seen = self._seen.get(path)
        if seen is None or seen[0] != looks:
            seen = self._seen[path] = (looks, read_bundle(path))
        return seen[1]


@dataclass(frozen=True)
class Entry:
    """One bundle in the cache."""

    digest: str
    bytes: int
    used: float
    """When it was last asked for, seconds since the epoch."""


class BundleCache:
    """Bundles by the sha256 of their card, least recently used dropped by bytes. Thread-safe, and between processes.

    `capacity` in bytes may be exceeded by what is pinned, and by one bundle that alone is larger.
    """

    def __init__(self, root: Path, capacity: int = CAPACITY, clock: Callable[[], float] = time.time) -> None:
        self.root, self.capacity = root, capacity
        self._clock = clock
        self._verifier = Verifier()
        self._stats = CacheStats()
        self._guard = threading.Lock()  # of the two below
        self._pins: dict[str, tuple[IO[bytes], int]] = {}  # digest -> lock file, how many hold it

    def get(self, digest: str, download: Download) -> Bundle:
        """The bundle whose card has this digest, downloaded once however many ask if no intact copy is here.

        Raises BundleError if what was downloaded is not that bundle. Until it is `pinned` it may be dropped again.
        """
        path = self.root / digest
        with locked(self._lock(f"{digest}.fetch")):
            cached = self._intact(path)
            self._count(hits=cached is not None, misses=cached is None)
            bundle = cached or self._fetch(path, download)
            pin = self._lock(f"{digest}.pin")
            pin.touch()
            os.utime(pin, (self._clock(), self._clock()))
        if cached is None:
            self._make_room(digest)
        return bundle

    @contextmanager
    def pinned(self, digest: str) -> Iterator[bool]:
        """Keeps an entry from being dropped inside the block, and says whether it is there. Never waits."""
        if not self._pin(digest):
            yield False
            return
        try:
            yield (self.root / digest / CARD).is_file()
        finally:
            self._unpin(digest)

    def entries(self) -> list[Entry]:
        """What is in the cache now."""
        entries = []
        for path in self.root.glob("[!.]*"):
            try:
                used = (self.root / LOCKS / f"{path.name}.pin").stat().st_mtime
                entries.append(Entry(path.name, sum(file.stat().st_size for file in path.iterdir()), used))
            except (FileNotFoundError, NotADirectoryError):  # dropped meanwhile, or not ours
                continue
        return entries

    def jobs(self) -> dict[str, str]:
        """The id of the job that made each entry, by digest, as far as its card can be read."""
        found = {}
        for entry in self.entries():
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
                found[entry.digest] = str(json.loads((self.root / entry.digest / CARD).read_bytes())["job_id"])
        return found

    def remove(self, digest: str) -> bool:
        """Removes an entry and what is left of downloads of it; False if somebody fetches or uses it now."""
        self._sweep()
        return not (self.root / digest).exists() or self._drop(digest)

    def stats(self) -> CacheStats:
        """The counts of this process, and the bytes of all entries."""
        return replace(self._stats, bytes=sum(entry.bytes for entry in self.entries()))

    # ---------------------------------------------------------------------------------------------------------------

    def _intact(self, path: Path) -> Bundle | None:
        if not path.is_dir():
            return None
        try:
            return _of_digest(self._verifier.bundle(path), path.name)
        except BundleError as problem:
            log.warning("%s; fetching it again", problem)
            self._count(damaged=1)
            return None

    def _fetch(self, path: Path, download: Download) -> Bundle:
        scratch = self.root / f".{path.name}.{uuid.uuid4().hex}"
        scratch.mkdir()
        try:
            fetched = download(scratch)
            _of_digest(read_bundle(fetched), path.name)
            replace_folder(fetched, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return self._verifier.bundle(path)

    def _make_room(self, kept: str) -> None:
        with locked(self._lock("evicting")):
            self._sweep()
            entries = sorted(self.entries(), key=lambda entry: entry.used)
            total = sum(entry.bytes for entry in entries)
            for entry in entries:
                if total <= self.capacity:
                    break
                if entry.digest != kept and self._drop(entry.digest):
                    total -= entry.bytes

    def _drop(self, digest: str) -> bool:
        """Removes an entry unless somebody fetches or uses it."""
        try:
            with (
                locked(self._lock(f"{digest}.fetch"), wait=False),
                locked(self._lock(f"{digest}.pin"), wait=False),
            ):
                gone = self.root / f".{digest}.{uuid.uuid4().hex}"
                (self.root / digest).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            return False
        self._count(evictions=1)
        return True

    def _sweep(self) -> None:
        """Removes what killed processes left behind."""
        for left in self.root.glob(".*.*"):
            try:
                with locked(self._lock(f"{left.name.split('.')[1]}.fetch"), wait=False):
                    shutil.rmtree(left, ignore_errors=True)
            except BlockingIOError:
                continue

    def _count(self, **more: int) -> None:
        with self._guard:
            self._stats = increased(self._stats, **more)

    def _pin(self, digest: str) -> bool:
        with self._guard:
            if digest in self._pins:
                file, holders = self._pins[digest]
            else:
                try:
                    file, holders = locked(self._lock(f"{digest}.pin"), shared=True, wait=False), 0
                except BlockingIOError:  # it is being dropped
                    return False
            self._pins[digest] = (file, holders + 1)
            return True

    def _unpin(self, digest: str) -> None:
        with self._guard:
            file, holders = self._pins.pop(digest)
            if holders == 1:
                file.close()
            else:
                self._pins[digest] = (file, holders - 1)

    def _lock(self, name: str) -> Path:
        return self.root / LOCKS / name


def _of_digest(bundle: Bundle, digest: str) -> Bundle:
    if sha256_of(bundle.path / CARD) != digest:
        raise BundleError(f"{bundle.path}: {CARD} does not have the sha256 {digest}; publish the adapter again")
    return bundle


def _looks(path: Path) -> object:
    try:
        files = sorted(path.iterdir())
        return tuple((file.name, (at := file.stat()).st_size, at.st_mtime_ns) for file in files)
    except OSError as problem:
        raise BundleError(f"{path}: not a readable folder ({problem.strerror}); fetch the bundle again") from None
