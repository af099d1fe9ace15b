"""How many jobs a device has room for, judged by what those so far have taken.

A pack grows job by job, so that its own steps are the probe. Knows megabytes; refuses to know whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

MARGIN = 1.1
"""On what the next job is expected to take: allocators leave gaps."""
USABLE = 0.95
"""Of what was free when the base had been loaded."""
MIB = 2**20


@dataclass
class MemoryBudget:
    """The memory of one device beside a base; without a capacity nothing is measured and there is always room."""

    capacity: float | None = None
    """MiB that jobs may take together."""
    idle: float = 0.0
    """MiB of the base alone."""
    peak: float | None = None
    """MiB that were allocated on the device at the height of the last step; None where nothing is measured."""
    _seen: dict[int, float] = field(default_factory=dict)
    """The most that so many jobs took, MiB."""

    @classmethod
    def beside(cls, device: torch.device) -> MemoryBudget:
        """Of a device that has loaded its base; a CPU's memory was planned with before."""
        if device.type != "cuda":
            return cls()
        torch.cuda.reset_peak_memory_stats(device)
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return cls(USABLE * (free + cached) / MIB, torch.cuda.memory_allocated(device) / MIB)

    def measure(self, jobs: int, device: torch.device) -> None:
        """After a step of so many jobs; the device's own record of its peak begins anew."""
        if self.capacity is not None:
            self.peak = torch.cuda.max_memory_allocated(device) / MIB
            self.took(jobs, self.peak - self.idle)
            torch.cuda.reset_peak_memory_stats(device)

    def took(self, jobs: int, mib: float) -> None:
        """So many jobs took so much beside the base, at their peak."""
        self._seen[jobs] = max(mib, self._seen.get(jobs, 0.0))

    def has_room_beside(self, jobs: int) -> bool:
        """Whether one more is expected to fit; a first job has to be tried, and measured before a second comes."""
        if self.capacity is None or jobs == 0:
            return True
        if jobs not in self._seen:
            return False
        return self._seen[jobs] + MARGIN * self._next(jobs) <= self.capacity

    def _next(self, jobs: int) -> float:
        """What one more is expected to take: as much as the last that joined, or as each has so far."""
        share = self._seen[jobs] / jobs
        if jobs - 1 not in self._seen:
            return share
        return max(self._seen[jobs] - self._seen[jobs - 1], share / 2)
