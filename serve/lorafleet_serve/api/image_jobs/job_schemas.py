"""The bodies of /v1/jobs. The text below a field is its description in the API's documentation."""

from __future__ import annotations

from typing import Literal

from lorafleet.config.manifest import WebAddress
from lorafleet_serve.api.schemas import Body, ErrorBody, ImagesReply, ImagesRequest

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Webhook(Body):
    """Where a job's end is told."""

    url: WebAddress
    """An http or https address on a host that the server's operator allows (`--webhook-host`)."""


class JobRequest(ImagesRequest):
    """POST /v1/jobs: the body of POST /v1/images/generations, and whom to tell."""

    webhook: Webhook | None = None
    """Where to post how the job has ended, signed, without its images."""

    def images_request(self) -> ImagesRequest:
        """What is asked of the engines."""
        return ImagesRequest.model_validate(self.model_dump(exclude={"webhook"}))


class JobSummary(Body):
    """Where a job stands."""

    id: str
    status: Status
    """`queued` here; `running` when the engines have it, where it may wait for other images; then how it ended."""
    place: int | None = None
    """Of a queued job: 1 is the next one."""
    created: int
    """Seconds since 1970."""
    finished: int | None = None
    """Seconds since 1970; absent until the job has ended."""


class JobReply(JobSummary):
    """What POST /v1/jobs and GET /v1/jobs/ID answer."""

    result: ImagesReply | None = None
    """Of a job that succeeded: what POST /v1/images/generations would have answered."""
    error: ErrorBody | None = None
    """Of a job that failed: the error that POST /v1/images/generations would have answered."""


class JobList(Body):
    """What GET /v1/jobs answers: the caller's newest jobs, the newest first."""

    jobs: tuple[JobSummary, ...]
