"""The HTTP API: routes, and one JSON body for every error. Knows a `Backend`; refuses to know engines and Ray."""

import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import lorafleet
from lorafleet.config.strict import parse
from lorafleet.errors import (
    BundleError,
    BusyError,
    LorafleetError,
    NonFiniteError,
    NotFoundError,
    RequestError,
    UnreachableError,
    WrongBaseError,
)
from lorafleet_serve.api.edits import add_edits
from lorafleet_serve.api.image_jobs.image_jobs import ImageJobs
from lorafleet_serve.api.image_jobs.job_limits import JobLimits
from lorafleet_serve.api.image_jobs.job_routes import JOBS, add_jobs
from lorafleet_serve.api.image_jobs.job_schemas import JobRequest
from lorafleet_serve.api.metrics import CONTENT_TYPE, HttpMetrics, Metered, exposition
from lorafleet_serve.api.model_ids import with_model
from lorafleet_serve.api.schemas import (
    AdapterList,
    AdapterModel,
    AdapterVersions,
    ErrorBody,
    ErrorReply,
    ImagesReply,
    ImagesRequest,
    ModelInfo,
    ModelList,
    with_tags,
)
from lorafleet_serve.api.service import Backend

RETRY_AFTER_SECONDS = 5
STATUSES: tuple[tuple[type[LorafleetError], int, str], ...] = (
    (NotFoundError, HTTPStatus.NOT_FOUND, "not_found"),
    (WrongBaseError, HTTPStatus.CONFLICT, "wrong_base"),
    (BundleError, HTTPStatus.UNPROCESSABLE_ENTITY, "bad_bundle"),
    (RequestError, HTTPStatus.UNPROCESSABLE_ENTITY, "bad_request"),
    (NonFiniteError, HTTPStatus.UNPROCESSABLE_ENTITY, "not_finite"),
    (BusyError, HTTPStatus.TOO_MANY_REQUESTS, "busy"),
    (UnreachableError, HTTPStatus.SERVICE_UNAVAILABLE, "unreachable"),
)
"""HTTP status and code by kind of error. The first match wins, so a subclass stands before its parent."""


def build_app(backend: Backend, ingress: str = "0", limits: JobLimits | None = None) -> FastAPI:
    """The application on a backend, which its handlers await. `ingress` names this process in metrics and jobs' ids."""
    metrics = HttpMetrics(ingress)
    app = FastAPI(title="lorafleet", version=lorafleet.__version__, responses={"4XX": {"model": ErrorReply}})
    app.add_exception_handler(LorafleetError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_body)
    app.add_exception_handler(HTTPException, _on_unknown_route)
    app.add_exception_handler(Exception, _on_error)
    app.add_middleware(Metered, metrics=metrics)
    served = _remembered(backend.base)

    async def understood(body: ImagesRequest) -> ImagesRequest:
        request = with_tags(body)
        if request.model is not None:  # its adapter must be known here, where a replica is chosen
            request = with_model(request, await served())
        return request

    @app.post("/v1/images/generations")
    async def generate(body: ImagesRequest) -> ImagesReply:
        """Makes images. Each request has its own adapters and options; requests share batches."""
        return await backend.generate(await understood(body))

    add_jobs(app, ImageJobs(backend, error_of, ingress, limits), understood)
    add_edits(app, backend, served)

    @app.get("/v1/adapters")
    async def adapters() -> AdapterList:
        """The registered adapters."""
        return await backend.adapters()

    @app.get("/v1/adapters/{name}")
    async def versions(name: str) -> AdapterVersions:
        """The versions of one adapter, the newest first."""
        own = tuple(each for each in (await backend.adapters()).adapters if each.name == name)
        if not own:
            raise NotFoundError(f"there is no adapter {name!r}; GET /v1/adapters lists them")
        return AdapterVersions(name=name, versions=own)

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The served base, and the adapters on it: each can be a request's `model`."""
        return await backend.models()

    @app.get("/v1/models/{model:path}")
    async def one_model(model: str) -> ModelInfo | AdapterModel:
        """The served base, or an adapter on it: NAME, NAME@VERSION or NAME@ALIAS."""
        return await backend.model(model)

    _add_monitoring(app, backend, metrics)
    return app


def _remembered(ask: Callable[[], Awaitable[str]]) -> Callable[[], Awaitable[str]]:
    """Asks once for what does not change."""
    known: list[str] = []

    async def answer() -> str:
        if not known:
            known.append(await ask())
        return known[0]

    return answer


def _add_monitoring(app: FastAPI, backend: Backend, metrics: HttpMetrics) -> None:
    """Adds the routes for operators."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Whether the engine takes requests; 503 while it does not."""
        await backend.ready()
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False)
    async def counters() -> Response:
        """Metrics in Prometheus' text format, of every replica and of this ingress."""
        return Response(exposition(metrics, await backend.stats()), media_type=CONTENT_TYPE)


def error_reply(status: int, code: str, message: str, wait: float = RETRY_AFTER_SECONDS) -> JSONResponse:
    """The reply for an error, with Retry-After in whole seconds where waiting helps."""
    kind = "invalid_request_error" if status < HTTPStatus.TOO_MANY_REQUESTS else "server_error"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    waiting_helps = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    body = ErrorReply(error=ErrorBody(code=code, message=message, type=kind))
    return JSONResponse(
        body.model_dump(), status_code=status, headers={"Retry-After": str(math.ceil(wait))} if waiting_helps else None
    )


def reply_to(problem: BaseException) -> JSONResponse:
    """The reply for an exception; one that is not ours is logged, and its words stay here."""
    for kind, status, code in STATUSES:
        if isinstance(problem, kind):
            wait = problem.retry_after_s if isinstance(problem, BusyError) else RETRY_AFTER_SECONDS
            return error_reply(status, code, str(problem), wait)
    message = str(problem)
    if not isinstance(problem, LorafleetError):
        logging.getLogger(__name__).error("unexpected error", exc_info=problem)
        message = "unexpected error; the server's log has the details"
    return error_reply(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)


def error_of(problem: BaseException) -> ErrorBody:
    """What the reply for an exception says."""
    return ErrorReply.model_validate_json(bytes(reply_to(problem).body)).error


async def _on_error(_: Request, problem: Exception) -> JSONResponse:
    return reply_to(problem)


async def _on_invalid_body(request: Request, problem: Exception) -> JSONResponse:
    """Describes the first problem of a body in one sentence, with the nearest known key."""
    message = "the body is not valid JSON; send an object with at least a prompt"
    body = getattr(problem, "body", None)
    if isinstance(body, dict):
        try:
            parse(JobRequest if request.url.path == JOBS else ImagesRequest, body, "body", RequestError)
        except RequestError as described:
            message = str(described)
    return error_reply(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_request", message)


async def _on_unknown_route(request: Request, problem: Exception) -> JSONResponse:
    status = getattr(problem, "status_code", int(HTTPStatus.NOT_FOUND))
    code = HTTPStatus(status).name.lower()
    return error_reply(status, code, f"{request.method} {request.url.path}: {HTTPStatus(status).phrase}; see /docs")
