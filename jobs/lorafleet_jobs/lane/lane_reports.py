"""Tells those who watch what a lane does, and how much of its device it uses, from a thread of its own.

Knows psutil and CUDA's counters; refuses to know what a lane does, and to disturb it: what cannot be reported is not.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

import psutil
import torch

from lorafleet.errors import UnreachableError
from lorafleet_jobs.jobqueue.job_queue import DeviceUse, JobQueue, LaneConfig

REPORT_SECONDS = 3.0
MIB = 2**20
log = logging.getLogger(__name__)


class LaneReports:
    """Reports for as long as the block lasts; a lane that says nothing more is soon no longer shown."""

    def __init__(
        self, queue: JobQueue, setup: LaneConfig, doing: Callable[[], str], seconds: float = REPORT_SECONDS
    ) -> None:
        """`doing` returns what the lane does now, in a few words."""
        self._queue, self._setup, self._doing, self._seconds = queue, setup, doing, seconds
        self._measure = GpuUse() if setup.device.startswith("cuda") else CpuUse(setup.cpus)
        self._stop = Event()
        self._thread = Thread(target=self._report, name="lane-reports", daemon=True)

    def __enter__(self) -> LaneReports:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(self._seconds)  # it may wait for a queue that does not answer

    def _report(self) -> None:
        host = socket.gethostname()
        try:
            while True:
                self._queue.report_lane(self._setup.name, host, self._doing(), self._measure())
                if self._stop.wait(self._seconds):
                    return
        except UnreachableError as problem:
            log.warning("lane %s is not reported any more: %s", self._setup.name, problem)


class CpuUse:
    """What this process uses of the machine's memory and of the CPUs that it was given."""

    def __init__(self, cpus: int) -> None:
        self._cpus, self._process = cpus, psutil.Process()
        self._process.cpu_percent()  # the first answer is always 0

    def __call__(self) -> DeviceUse:
        """Measures; `busy` is since the last call."""
        busy = min(100.0, self._process.cpu_percent() / self._cpus)
        return DeviceUse("CPU", busy, self._process.memory_info().rss // MIB, psutil.virtual_memory().total // MIB)


class GpuUse:
    """What is used of the current GPU, by whomever."""

    def __call__(self) -> DeviceUse:
        """Measures; `busy` is None where the driver's library for Python (nvidia-ml-py) is missing."""
        free, total = torch.cuda.mem_get_info()
        try:
            busy: float | None = float(torch.cuda.utilization())
        except ModuleNotFoundError:
            busy = None
        return DeviceUse(torch.cuda.get_device_name(), busy, (total - free) // MIB, total // MIB)
