"""The routes of /v1/jobs. Knows HTTP and the jobs of this process; refuses to know who makes the images."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from lorafleet.errors import RequestError
from lorafleet_serve.api.image_jobs.event_stream import MEDIA_TYPE, event_stream, last_event_id
from lorafleet_serve.api.image_jobs.image_jobs import ImageJobs
from lorafleet_serve.api.image_jobs.job_schemas import JobList, JobReply, JobRequest
from lorafleet_serve.api.schemas import ImagesRequest

JOBS = "/v1/jobs"
MAX_KEY = 255
MOST_LISTED = 100
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="How many at most.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Any text of up to 255 characters, such as a UUID. The same key with the same body is the same "
        "job for as long as that is kept."
    ),
]
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="The id of the last event that was received.")
]


def add_jobs(app: FastAPI, jobs: ImageJobs, understood: Callable[[ImagesRequest], Awaitable[ImagesRequest]]) -> None:
    """Adds the routes. `understood` gives a body as the backend is to have it."""

    @app.post(JOBS, status_code=HTTPStatus.ACCEPTED)
    async def create(
        body: JobRequest, request: Request, response: Response, idempotency_key: IdempotencyKey = None
    ) -> JobReply:
        """Makes images later: the body of POST /v1/images/generations, answered at once with the job's id."""
        caller, key = caller_of(request), checked_key(idempotency_key)
        wanted = await understood(body.images_request())
        is_known = jobs.known(body, caller, key) is not None
        job = jobs.accept(body, wanted, caller, key)
        response.headers["Location"] = f"{request.scope.get('root_path', '')}{JOBS}/{job.id}"
        if is_known:
            response.headers["Idempotent-Replayed"] = "true"
        return job.reply()

    @app.get(JOBS)
    async def newest(request: Request, limit: Limit = 20) -> JobList:
        """The newest jobs of the caller, who is whoever sends the same Authorization header, or none."""
        return JobList(jobs=tuple(job.summary() for job in jobs.newest(caller_of(request), limit)))

    @app.get("/v1/jobs/{job}")
    async def one(job: str) -> JobReply:
        """Where a job stands; its images, if it has succeeded."""
        return jobs.find(job).reply()

    @app.delete("/v1/jobs/{job}")
    async def cancel(job: str) -> JobReply:
        """Cancels a job; one that has ended stays as it is."""
        found = jobs.find(job)
        jobs.cancel(found)
        return found.reply()

    @app.get("/v1/jobs/{job}/events", response_class=StreamingResponse)
    async def events(job: str, last_event: LastEventId = None) -> Response:
        """The job's changes as server-sent events, those of the past first; ends with the job."""
        found, seen = jobs.find(job), last_event_id(last_event)
        if found.ended and not found.after(seen):
            return Response(status_code=HTTPStatus.NO_CONTENT)  # a browser asks again after anything else
        jobs.check_streams()
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(event_stream(jobs, found, seen), media_type=MEDIA_TYPE, headers=headers)


def caller_of(request: Request) -> str:
    """Tells callers apart by their Authorization header, which nobody here checks; "" without one."""
    sent = request.headers.get("authorization")
    return "" if sent is None else sha256(sent.encode()).hexdigest()


def checked_key(key: str | None) -> str | None:
    """An Idempotency-Key; RequestError if it is empty or too long."""
    if key is not None and not 1 <= len(key) <= MAX_KEY:
        raise RequestError(f"Idempotency-Key has {len(key)} characters; 1 to {MAX_KEY} are allowed")
    return key
