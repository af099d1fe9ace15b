"""A job's events as a stream of server-sent events (the WHATWG's HTML standard, 9.2).

    id: 2
    event: running
    data: {"id": "job-0-6f2c...", "status": "running", "attempt": 1}

Knows a job and the format; refuses to know HTTP.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from lorafleet.errors import RequestError
from lorafleet_serve.api.image_jobs.image_job import Event, ImageJob
from lorafleet_serve.api.image_jobs.image_jobs import ImageJobs

MEDIA_TYPE = "text/event-stream"
HEARTBEAT = ": still here\n\n"
"""A comment, which keeps proxies from closing a silent connection and tells the server of a caller that left."""


async def event_stream(jobs: ImageJobs, job: ImageJob, last_seen: int = 0) -> AsyncIterator[str]:
    """The events of a job after one, those of the past first, until the job has ended."""
    with jobs.stream():
        while True:
            for event in job.after(last_seen):
                yield as_text(job.id, event)
                last_seen = event.id
            if job.after(last_seen):
                continue
            if job.ended:
                return
            try:
                await asyncio.wait_for(job.changed(last_seen), jobs.limits.heartbeat_seconds)
            except TimeoutError:
                yield HEARTBEAT


def as_text(job_id: str, event: Event) -> str:
    """One event; what it does not say is absent. The images of a job that succeeded are at GET /v1/jobs/ID."""
    error = None if event.error is None else event.error.model_dump()
    fields = {"id": job_id, "status": event.status, "place": event.place, "attempt": event.attempt, "error": error}
    data = json.dumps({name: value for name, value in fields.items() if value is not None})
    return f"id: {event.id}\nevent: {event.status}\ndata: {data}\n\n"


def last_event_id(header: str | None) -> int:
    """The number in a Last-Event-ID header; 0 without one. RequestError for what is no number."""
    if not header:
        return 0
    if not (header.isascii() and header.isdecimal() and len(header) <= 15):
        raise RequestError(f"Last-Event-ID is {header[:40]!r}; send the id of an event of this job, a number, or none")
    return int(header)
