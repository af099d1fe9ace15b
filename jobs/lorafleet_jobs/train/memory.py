"""Whether a device has memory for one more job, judged by what the present jobs take.

A pack grows job by job, so that its own steps are the measurement. Knows megabytes; refuses to know whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

MARGIN = 1.1
"""Factor on what the next job is expected to take: allocators leave gaps."""
USABLE = 0.95
"""Share of the memory that was free once the base was loaded."""
MIB = 2**20


@dataclass
class MemoryBudget:
    """The memory of one device beside a base; without a capacity nothing is measured, and one more job always fits."""

    capacity: float | None = None
    """MiB that jobs may take together."""
    idle: float = 0.0
    """MiB of the base alone."""
    peak: float | None = None
    """The most MiB that were allocated on the device during the last step; None where nothing is measured."""
    _seen: dict[int, float] = field(default_factory=dict)
    """MiB by number of jobs: the most that so many took."""

    @classmethod
    def beside(cls, device: torch.device) -> MemoryBudget:
        """The budget of a device that has loaded its base; a CPU's memory is planned before, and not measured."""
        if device.type != "cuda":
            return cls()
        torch.cuda.reset_peak_memory_stats(device)
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return cls(USABLE * (free + cached) / MIB, torch.cuda.memory_allocated(device) / MIB)

    def measure(self, jobs: int, device: torch.device) -> None:
        """Reads the peak of a step of so many jobs, and resets the device's record of it."""
        if self.capacity is not None:
            self.peak = torch.cuda.max_memory_allocated(device) / MIB
            self.took(jobs, self.peak - self.idle)
            torch.cuda.reset_peak_memory_stats(device)

    def took(self, jobs: int, mib: float) -> None:
        """Records that so many jobs took so much beside the base at their peak."""
        self._seen[jobs] = max(mib, self._seen.get(jobs, 0.0))

    def fits_one_more(self, jobs: int) -> bool:
        """Whether one more job is expected to fit beside so many; the first is always tried, and measured."""
        if self.capacity is None or jobs == 0:
            return True
        if jobs not in self._seen:
            return False
        return self._seen[jobs] + MARGIN * self._next(jobs) <= self.capacity

    def _next(self, jobs: int) -> float:
        """MiB that one more job is expected to take: what the last one to join took, or the mean of all."""
        share = self._seen[jobs] / jobs
        if jobs - 1 not in self._seen:
            return share
        return max(self._seen[jobs] - self._seen[jobs - 1], share / 2)
