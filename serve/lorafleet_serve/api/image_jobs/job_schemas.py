"""The bodies of /v1/jobs. The text below a field is its description in the API's documentation."""

from __future__ import annotations

from typing import Literal

from lorafleet_serve.api.schemas import Body, ErrorBody, ImagesReply

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


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
