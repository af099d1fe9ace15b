"""Who drives a submission: a lease in the database of the job rows, so that it holds for every home and machine on it.

The driver renews its lease from a thread. A driver that was killed is found out at once on its own host, elsewhere when
its lease has run out. One that was away for so long that another took over learns it from `DriverLease.is_lost`, and
its lanes from the queue.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import psutil
from sqlalchemy.exc import SQLAlchemyError

from lorafleet.errors import first_line
from lorafleet_jobs.jobqueue.job_queue import SteadyClock
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobqueue.tables import DriverRow

LEASE_SECONDS = 30.0
RENEW_SECONDS = 3.0
log = logging.getLogger(__name__)


class DriverLease:
    """A lease on driving one submission, renewed until it is closed or another driver has taken it."""

    def __init__(self, store: JobStore, row: DriverRow, clock: SteadyClock) -> None:
        self._store, self._row, self._clock = store, row, clock
        self._closed, self._lost = Event(), Event()
        self._thread = Thread(target=self._keep, name=f"driver-{row.submission}", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """What tells this lease from every other one."""
        return self._row.token

    @property
    def is_lost(self) -> bool:
        """Whether another driver was seen to have taken the submission over; `renew` looks now."""
        return self._lost.is_set()

    def renew(self) -> bool:
        """Prolongs the lease; False if another driver has taken the submission over, whose rows they are then."""
        if not self._store.renew_driver(replace(self._row, expires=self._clock() + LEASE_SECONDS)):
            if not self._lost.is_set():
                log.warning("another driver has taken over %s", self._row.submission)
            self._lost.set()
        return not self._lost.is_set()

    def close(self) -> None:
        """Gives the lease back."""
        self._closed.set()
        self._thread.join()
        self._store.drop_driver(self._row)

    def _keep(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            try:
                if not self.renew():
                    return
            except SQLAlchemyError as problem:  # the disk is full, or the database restarts: tried again
                log.warning("the lease on %s cannot be renewed (%s)", self._row.submission, first_line(problem))


@contextmanager
def driver_lease(store: JobStore, submission: str) -> Iterator[DriverLease | None]:
    """Holds the lease on driving a submission inside the block, or gives None if another driver holds it."""
    clock = SteadyClock()
    _remove_if_dead(store, submission)
    row = DriverRow(
        submission=submission,
        token=uuid.uuid4().hex,
        host=_host(),
        pid=os.getpid(),
        process_started=_started(psutil.Process()),
        expires=clock() + LEASE_SECONDS,
    )
    if not store.take_driver(row, clock()):
        yield None
        return
    lease = DriverLease(store, row, clock)
    try:
        yield lease
    finally:
        lease.close()


def has_driver(store: JobStore, submission: str) -> bool:
    """Whether a process is driving the submission now, on whatever machine."""
    row = store.driver(submission)
    return row is not None and row.expires > SteadyClock()() and not _is_dead(row)


def driver_of(store: JobStore, submission: str) -> str:
    """Who drives a submission, for people."""
    row = store.driver(submission)
    return "nobody" if row is None else f"process {row.pid} on {row.host.partition('/')[0]}"


def _remove_if_dead(store: JobStore, submission: str) -> None:
    row = store.driver(submission)
    if row is not None and _is_dead(row):
        store.drop_driver(row)


def _is_dead(row: DriverRow) -> bool:
    """Whether the driver's process is known to be gone; of another host's processes nothing is known."""
    if row.host != _host():
        return False
    try:
        process = psutil.Process(row.pid)
        return bool(_started(process) != row.process_started or process.status() == psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return True


def _started(process: psutil.Process) -> float:
    """When a process began, by a clock that nobody sets: on Linux, `create_time` moves with the clock of the day."""
    if sys.platform != "linux":
        return float(process.create_time())
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return float(stat.rpartition(")")[2].split()[19])  # `starttime` of proc(5), in clock ticks since the boot


def _host() -> str:
    """Where process ids mean what they mean here: a machine, or one container of it, for these may share a name."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""  # no Linux, so no containers
    return f"{socket.gethostname()}/{namespace}"
