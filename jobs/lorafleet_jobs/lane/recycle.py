"""When a lane's process is exchanged for a fresh one, for libraries leak: a pure decision, and how it is measured."""

from __future__ import annotations

import os
from pathlib import Path

RECYCLE_JOBS = 200
GROWTH_BYTES = 2 * 2**30
GROWTH_SHARE = 0.5


def should_recycle(jobs_done: int, rss_now: int, rss_settled: int) -> bool:
    """Whether a lane has done enough jobs, or has grown too much since its first job ended; bytes."""
    return jobs_done >= RECYCLE_JOBS or rss_now - rss_settled > max(GROWTH_BYTES, GROWTH_SHARE * rss_settled)


def resident() -> int:
    """Bytes that this process has in memory; 0 where there is no /proc to tell, so that only jobs are counted."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.is_file() else 0


class Wear:
    """How worn a lane's process is."""

    def __init__(self) -> None:
        self.jobs_done = 0
        self._settled = 0

    def job_ended(self) -> None:
        """One more."""
        self.jobs_done += 1
        if self.jobs_done == 1:
            self._settled = resident()

    @property
    def is_worn(self) -> bool:
        """Whether the process should be exchanged."""
        return self.jobs_done > 0 and should_recycle(self.jobs_done, resident(), self._settled)
