"""How many jobs may wait and run, and how long those that ended are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lorafleet_serve.api.image_jobs.image_job import ImageJob

MIB = 2**20


@dataclass(frozen=True)
class JobLimits:
    """The bounds of an ingress' jobs."""

    images_at_once: int = 8
    """Images of jobs that the backend makes at the same time: no more than its engines denoise at once, so that jobs
    never take the places in which other requests wait. A job of more images runs alone."""
    waiting: int = 256
    """Jobs that wait for their turn; then 429."""
    kept: int = 1000
    """Jobs that ended and are kept."""
    kept_bytes: int = 512 * MIB
    """Bytes of base64 of their images."""
    kept_seconds: float = 3600.0
    """How long they are kept."""
    streams: int = 200
    """Streams of events that are open at the same time; then 429."""
    heartbeat_seconds: float = 15.0
    """From one sign of life to the next in a stream."""
    restart_seconds: float = 60.0
    """How long a job waits for an engine after the process of its own has ended."""

    webhook_hosts: tuple[str, ...] = ()
    """Hosts that jobs may have told of their end, as HOST or HOST:PORT."""

    def __str__(self) -> str:
        return (
            f"{self.kept_seconds / 60:g} minutes after its end, and less long if more than {self.kept} jobs or "
            f"{self.kept_bytes / MIB:g} MiB of images ended since"
        )

    def surplus(self, ended: Iterable[tuple[float, ImageJob]], now: float) -> list[ImageJob]:
        """Which of the jobs that ended are to go: the oldest, of `ended` in the order of their end, with its time.

        The last one to end stays, however large it is, until its time is over.
        """
        jobs = list(ended)
        count, nbytes, gone = len(jobs), sum(job.nbytes for _, job in jobs), []
        for time, job in jobs:
            too_much = count > 1 and (count > self.kept or nbytes > self.kept_bytes)
            if not too_much and now - time < self.kept_seconds:
                break
            count, nbytes = count - 1, nbytes - job.nbytes
            gone.append(job)
        return gone
