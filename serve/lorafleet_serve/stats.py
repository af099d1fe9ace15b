"""An engine's counts, and the load that follows from them. Knows numbers only."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from lorafleet.util.counting import increased

UNKNOWN_SECONDS, MOST_SECONDS = 5.0, 120.0


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine was made; `rows_running`, `rows_waiting` and `slot_bytes` are current values."""

    rows_running: int = 0
    """Images being denoised."""
    rows_waiting: int = 0
    """Images accepted whose first step has not begun."""
    steps: int = 0
    """Calls of the UNet."""
    unet_rows: int = 0
    """Rows in these calls: two for an image under guidance, one without."""
    images: int = 0
    failed: int = 0
    cancelled: int = 0
    host_hits: int = 0
    """Adapters that were in host memory or being loaded."""
    host_misses: int = 0
    slot_hits: int = 0
    """Adapters that were on the device."""
    slot_misses: int = 0
    slot_evictions: int = 0
    slot_bytes: int = 0
    swap_seconds: float = 0.0
    """Spent copying adapters from host to device, on the encoder thread."""
    step_seconds: float = 0.0
    """Spent in steps, without encoding and decoding."""
    prompt_hits: int = 0
    """Prompts whose encoding was cached."""
    prompt_misses: int = 0


class Counts:
    """The growing counts of an engine. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = EngineStats()

    def add(self, **more: float) -> None:
        """Adds to the named counts."""
        with self._lock:
            self._stats = increased(self._stats, **more)

    def read(self) -> EngineStats:
        """The counts so far."""
        with self._lock:
            return self._stats


def retry_after_seconds(stats: EngineStats) -> float:
    """Seconds until everything that waits now will have been started, at the mean rate so far; between 1 and 120.

    5 before the first image.
    """
    if stats.images == 0:
        return UNKNOWN_SECONDS
    return min(max(1.0, stats.rows_waiting * stats.step_seconds / stats.images), MOST_SECONDS)


def replicas_wanted(rows: float, rows_per_replica: int) -> int:
    """The fewest replicas that could run all `rows`, now running and waiting, at once; at least 1."""
    return max(1, math.ceil(rows / rows_per_replica))
