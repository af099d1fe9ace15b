"""One job: what was asked, where it stands, and the events that brought it there. Refuses to know who does it.

Of one event loop: nothing here is locked.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from lorafleet_serve.api.image_jobs.job_schemas import JobReply, JobRequest, JobSummary, Status
from lorafleet_serve.api.schemas import ErrorBody, ImagesReply, ImagesRequest

ENDS: tuple[Status, ...] = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Event:
    """A change of a job."""

    id: int
    """Grows from event to event of a job."""
    status: Status
    place: int | None = None
    attempt: int | None = None
    """Of `running`: 2 when it is done again, because the engine's process has ended."""
    error: ErrorBody | None = None


@dataclass(eq=False)
class ImageJob:
    """A job from its acceptance to its end."""

    id: str
    caller: str
    """Whose list it is in."""
    key: str | None
    """Its Idempotency-Key."""
    asked: JobRequest
    """The body as it came."""
    request: ImagesRequest
    """What the backend is asked: tags and model understood, and a seed, so that a second attempt makes the same."""
    created: int = field(default_factory=lambda: int(time.time()))
    finished: int | None = None
    result: ImagesReply | None = None
    events: list[Event] = field(default_factory=list)
    """At most one of `queued`, the latest, so that a long wait does not make a long history."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> Status:
        """What its last event says."""
        return self.events[-1].status

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.finished is not None

    @property
    def webhook(self) -> str | None:
        """The address that is told how it ended."""
        return None if self.asked.webhook is None else self.asked.webhook.url

    @property
    def nbytes(self) -> int:
        """What its images take, in bytes of base64."""
        return 0 if self.result is None else sum(len(image.b64_json or "") for image in self.result.data)

    def queue(self, place: int) -> None:
        """Notes its place in the queue, if that is another than before."""
        last = self.events[-1] if self.events else None
        if last is None or (last.status, last.place) != ("queued", place):
            self.events = [event for event in self.events if event.status != "queued"]
            self._note(Event(1 if last is None else last.id + 1, "queued", place=place))

    def run(self, attempt: int) -> None:
        """Notes that the backend has it."""
        self._note(Event(self.events[-1].id + 1, "running", attempt=attempt))

    def end(self, status: Status, result: ImagesReply | None = None, error: ErrorBody | None = None) -> None:
        """Notes how it ended; once."""
        self.finished, self.result = int(time.time()), result
        self._note(Event(self.events[-1].id + 1, status, error=error))

    def after(self, event_id: int) -> list[Event]:
        """The events that came after one."""
        return [event for event in self.events if event.id > event_id]

    async def changed(self, event_id: int) -> None:
        """Returns when there are events after one."""
        while not self.after(event_id):
            await self._changed.wait()

    def summary(self) -> JobSummary:
        """Where it stands, in a list."""
        return JobSummary(
            id=self.id,
            status=self.status,
            place=self.events[-1].place,
            created=self.created,
            finished=self.finished,
        )

    def reply(self) -> JobReply:
        """Where it stands, with the images or the error."""
        return JobReply(**dict(self.summary()), result=self.result, error=self.events[-1].error)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()  # wakes those who wait now; the next ones wait for the next event
        self._changed = asyncio.Event()
