"""An ingress' jobs: accepted, made by the backend in their order, and kept for a while.

They live in the ingress' memory: an engine's process may end, and a job of it is done again; with the ingress' process
its jobs are gone. Knows a `Backend`; refuses to know HTTP. Of one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial

from lorafleet.errors import BusyError, NotFoundError, RequestError, UnreachableError
from lorafleet_serve.api.image_jobs.image_job import ImageJob
from lorafleet_serve.api.image_jobs.job_limits import JobLimits
from lorafleet_serve.api.image_jobs.job_schemas import JobRequest
from lorafleet_serve.api.image_jobs.job_webhooks import JobWebhooks
from lorafleet_serve.api.schemas import ErrorBody, ImagesReply, ImagesRequest
from lorafleet_serve.api.service import Backend

ATTEMPTS = 2
READY_EVERY = 1.0
STOPPED = "the server ended this job's request before its images were finished; send the request again"


class ImageJobs:
    """The jobs of one ingress, under its name."""

    def __init__(
        self,
        backend: Backend,
        describe: Callable[[BaseException], ErrorBody],
        ingress: str = "0",
        limits: JobLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`describe` makes an error's body of an exception."""
        self.limits, self.ingress = limits or JobLimits(), ingress
        self._webhooks = JobWebhooks(self.limits.webhook_hosts)
        self._backend, self._describe, self._clock = backend, describe, clock
        self._jobs: dict[str, ImageJob] = {}  # all of them, the oldest first
        self._keys: dict[tuple[str, str], ImageJob] = {}  # by caller and Idempotency-Key
        self._waiting: dict[str, ImageJob] = {}
        self._running: dict[str, tuple[ImageJob, asyncio.Task[ImagesReply]]] = {}
        self._ended: dict[str, tuple[float, ImageJob]] = {}
        self._streams = 0

    def known(self, asked: JobRequest, caller: str, key: str | None) -> ImageJob | None:
        """The job that the caller sent with this key before. RequestError if it asked for something else."""
        self._forget()
        job = None if key is None else self._keys.get((caller, key))
        if job is not None and job.asked != asked:
            raise RequestError(
                f"Idempotency-Key {key!r} was sent with another body before, for job {job.id}; send the same body, or "
                "another key"
            )
        return job

    def accept(self, asked: JobRequest, request: ImagesRequest, caller: str = "", key: str | None = None) -> ImageJob:
        """The job for a body `asked`, a new one unless the key is known; BusyError if too many wait.

        `request` is `asked` as the backend is to have it. Nothing is awaited from the look at the key to the note of
        it, so that two requests at once make one job.
        """
        if (known := self.known(asked, caller, key)) is not None:
            return known
        if asked.webhook is not None:
            self._webhooks.check(asked.webhook.url)
        if len(self._waiting) >= self.limits.waiting:
            raise BusyError(
                f"{len(self._waiting)} jobs are waiting; at most {self.limits.waiting} may; send the request again "
                "later"
            )
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        id_ = f"job-{self.ingress}-{secrets.token_hex(12)}"
        job = ImageJob(id_, caller, key, asked, request.with_changes(seed=seed))
        self._jobs[id_] = self._waiting[id_] = job
        if key is not None:
            self._keys[caller, key] = job
        job.queue(len(self._waiting))
        self._start()
        return job

    def find(self, id_: str) -> ImageJob:
        """A job by its id. NotFoundError that says how long jobs are kept."""
        self._forget()
        if id_ in self._jobs:
            return self._jobs[id_]
        if id_.startswith("job-") and not id_.startswith(f"job-{self.ingress}-"):
            raise NotFoundError(
                f"job {id_} is not known here: jobs live in the memory of the process that accepted them, and that was "
                "another one, or this server before it was restarted; send the request again"
            )
        raise NotFoundError(f"there is no job {id_!r}; a job is kept for {self.limits}")

    def newest(self, caller: str, most: int) -> list[ImageJob]:
        """The caller's jobs, the newest first."""
        self._forget()
        return [job for job in reversed(self._jobs.values()) if job.caller == caller][:most]

    def cancel(self, job: ImageJob) -> None:
        """Ends a job, unless it has ended; its images stop being made at the next step."""
        if job.ended:
            return
        self._waiting.pop(job.id, None)
        self._end(job, partial(job.end, "cancelled"))
        if job.id in self._running:
            self._running[job.id][1].cancel()  # its place is free when the backend has let go of it
        self._start()

    def check_streams(self) -> None:
        """BusyError if as many streams of events are open as may be."""
        if self._streams >= self.limits.streams:
            raise BusyError(
                f"{self._streams} streams of events are open; at most {self.limits.streams} may be; ask for "
                "GET /v1/jobs/ID from time to time"
            )

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a stream of events while it is open."""
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    # ---- making

    def _start(self) -> None:
        """Starts the jobs for which there is room, in their order, and tells the others their places."""
        while self._waiting:
            job = next(iter(self._waiting.values()))
            images = sum(running.request.n for running, _ in self._running.values())
            if self._running and images + job.request.n > self.limits.images_at_once:
                break
            del self._waiting[job.id]
            job.run(1)
            # A context of its own: what belongs to the HTTP request that brought the job ends with that request.
            task = asyncio.create_task(self._make(job), context=Context())
            self._running[job.id] = job, task
            task.add_done_callback(partial(self._on_made, job))
        for place, job in enumerate(self._waiting.values(), 1):
            job.queue(place)

    async def _make(self, job: ImageJob) -> ImagesReply:
        """The images, made again if the engine's process ended; the second attempt may raise anything."""
        for attempt in range(2, ATTEMPTS + 1):
            try:
                return await self._unless_busy(job)
            except UnreachableError:
                await self._until_ready()
            job.run(attempt)
        return await self._unless_busy(job)

    async def _unless_busy(self, job: ImageJob) -> ImagesReply:
        """The images. While other requests fill the engines' queues the job waits, for it was accepted."""
        while True:
            try:
                return await self._backend.generate(job.request)
            except BusyError as problem:
                await asyncio.sleep(problem.retry_after_s)

    async def _until_ready(self) -> None:
        """Waits until an engine takes requests, or for as long as the limits say."""
        deadline = self._clock() + self.limits.restart_seconds
        while self._clock() < deadline:
            try:
                await self._backend.ready()
                break
            except UnreachableError:
                await asyncio.sleep(min(READY_EVERY, self.limits.restart_seconds))

    def _on_made(self, job: ImageJob, task: asyncio.Task[ImagesReply]) -> None:
        del self._running[job.id]
        problem = UnreachableError(STOPPED) if task.cancelled() else task.exception()
        if not job.ended:  # else its caller has cancelled it
            if problem is None:
                self._end(job, partial(job.end, "succeeded", result=task.result()))
            else:
                self._end(job, partial(job.end, "failed", error=self._describe(problem)))
        self._start()

    # ---- keeping

    def _end(self, job: ImageJob, end: Callable[[], None]) -> None:
        end()
        self._webhooks.tell(job)
        self._ended[job.id] = self._clock(), job
        self._forget()
        asyncio.get_running_loop().call_later(self.limits.kept_seconds + 1, self._forget)

    def _forget(self) -> None:
        """Drops what is kept no longer."""
        for job in self.limits.surplus(self._ended.values(), self._clock()):
            del self._jobs[job.id], self._ended[job.id]
            if job.key is not None:
                del self._keys[job.caller, job.key]
