"""Every error as one JSON body, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

Knows our errors and FastAPI's; refuses to know what raised them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from lorafleet.config.strict import describe, dotted, mistakes, models_in
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
from lorafleet_serve.api.schemas import ErrorBody, ErrorReply

RETRY_AFTER_SECONDS = 5
WAITING_HELPS = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
STATUSES: tuple[tuple[type[LorafleetError], int, str], ...] = (
    (NotFoundError, HTTPStatus.NOT_FOUND, "not_found"),
    (WrongBaseError, HTTPStatus.CONFLICT, "wrong_base"),
    (BundleError, HTTPStatus.UNPROCESSABLE_ENTITY, "bad_bundle"),
    (RequestError, HTTPStatus.BAD_REQUEST, "bad_request"),
    (NonFiniteError, HTTPStatus.UNPROCESSABLE_ENTITY, "not_finite"),
    (BusyError, HTTPStatus.TOO_MANY_REQUESTS, "busy"),
    (UnreachableError, HTTPStatus.SERVICE_UNAVAILABLE, "unreachable"),
)
"""HTTP status and code by kind of error. The first match wins, so a subclass stands before its parent."""


def add_error_replies(app: FastAPI) -> None:
    """Makes an application answer every error so."""
    app.add_exception_handler(LorafleetError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_unknown_route)
    app.add_exception_handler(Exception, _on_error)


def error_reply(
    status: int, code: str, message: str, wait: float = RETRY_AFTER_SECONDS, param: str | None = None
) -> JSONResponse:
    """The reply for an error, with Retry-After in whole seconds where waiting helps."""
    kind = "invalid_request_error" if status < HTTPStatus.TOO_MANY_REQUESTS else "server_error"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    headers = {"Retry-After": str(math.ceil(wait))} if status in WAITING_HELPS else {}
    if status == HTTPStatus.CONFLICT:
        headers = {"x-should-retry": "false"}  # OpenAI's clients would send it thrice
    body = ErrorReply(error=ErrorBody(message=message, type=kind, param=param, code=code))
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


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


async def _on_invalid_request(request: Request, problem: Exception) -> JSONResponse:
    """Describes the first mistake of a body or query in one sentence, with the nearest known key."""
    message, param = "the body is not valid JSON; send an object with at least a prompt", None
    errors = problem.errors() if isinstance(problem, RequestValidationError) else []
    body, model = getattr(problem, "body", None), _body_model(request)
    if errors and errors[0]["loc"][0] == "query":
        param = dotted(errors[0]["loc"][1:])
        message = f"{param} is {errors[0]['input']!r}; {errors[0]['msg'].removeprefix('Input ')}"
    elif isinstance(body, Mapping) and model is not None:
        message, param = _described(model, body)
    return error_reply(HTTPStatus.BAD_REQUEST, "bad_request", message, param=param)


def _body_model(request: Request) -> type[BaseModel] | None:
    """What the body of a request's route must be."""
    field = getattr(request.scope.get("route"), "body_field", None)
    return next(iter(models_in(field.field_info.annotation)), None) if field is not None else None


def _described(model: type[BaseModel], body: Mapping[str, Any]) -> tuple[str, str | None]:
    try:
        model.model_validate(body)
    except ValidationError as problem:
        found = mistakes(problem, model, body)
        first = next((one for one in found if one.kind == "unknown"), found[0])
        return f"body: {describe(problem, model, body)}", dotted(first.path) or None
    return "the body was not understood; see /docs", None


async def _on_unknown_route(request: Request, problem: Exception) -> JSONResponse:
    status = getattr(problem, "status_code", int(HTTPStatus.NOT_FOUND))
    code = HTTPStatus(status).name.lower()
    return error_reply(status, code, f"{request.method} {request.url.path}: {HTTPStatus(status).phrase}; see /docs")
