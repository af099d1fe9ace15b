"""When a lane's process is replaced by a fresh one, because libraries leak memory.

Knows jobs and resident memory; refuses to know how a process is replaced.
"""

from __future__ import annotations

import psutil

RECYCLE_JOBS = 200
"""Jobs after which a process is replaced in any case."""
GROWTH_BYTES = 2 * 2**30
"""Growth since the first job ended, after which a process is replaced; or GROWTH_SHARE, if that is more."""
GROWTH_SHARE = 0.5
"""Growth as a share of the memory that the process had when its first job ended."""


def should_recycle(jobs_done: int, rss_now: int, rss_settled: int) -> bool:
    """Whether a process has done enough jobs, or has grown too much since its first job ended; memory in bytes."""
    return jobs_done >= RECYCLE_JOBS or rss_now - rss_settled > max(GROWTH_BYTES, GROWTH_SHARE * rss_settled)


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


class ProcessUsage:
    """The jobs that a lane's process has done, and how much its memory has grown since the first of them."""

    def __init__(self) -> None:
        self.jobs_done = 0
        self._rss_settled = 0

    def job_ended(self) -> None:
        """Counts a job; memory is compared with what the process has after the first."""
        self.jobs_done += 1
        if self.jobs_done == 1:
            self._rss_settled = resident()

    @property
    def should_recycle(self) -> bool:
        """Whether the process should be replaced."""
        return self.jobs_done > 0 and should_recycle(self.jobs_done, resident(), self._rss_settled)
