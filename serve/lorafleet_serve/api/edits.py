"""POST /v1/images/edits: its body, a form or JSON, read within bounds. Knows HTTP; refuses to know pictures."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from lorafleet.config.strict import parse
from lorafleet.errors import RequestError
from lorafleet_serve.api.edit_schemas import EditsRequest
from lorafleet_serve.api.model_ids import with_model
from lorafleet_serve.api.schemas import ImagesReply, with_tags
from lorafleet_serve.api.service import Backend
from lorafleet_serve.api.uploads import MAX_BYTES

MAX_BODY = 3 * MAX_BYTES
"""Two files in base64, and the rest."""
MAX_FIELDS = 64
NESTED = ("adapters", "crop")
"""Fields that a form holds as JSON."""
FORM, JSON = "multipart/form-data", "application/json"


def add_edits(app: FastAPI, backend: Backend, served: Callable[[], Awaitable[str]]) -> None:
    """Adds the route. `served` gives the served base's name."""

    @app.post("/v1/images/edits", openapi_extra={"requestBody": _documented()})
    async def edit(request: Request) -> ImagesReply:
        """Makes images from a picture: all of it, or what a mask says. Otherwise as POST /v1/images/generations."""
        edits = with_tags(parse(EditsRequest, await body_of(request), "body", RequestError))
        if edits.model is not None:
            edits = with_model(edits, await served())
        return await backend.generate(edits)


async def body_of(request: Request) -> dict[str, Any]:
    """The fields of a form or of a JSON object, files as bytes; RequestError if it is neither, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    bounded = Request(request.scope, _bounded(request))
    if kind == JSON:
        return _object(await bounded.body())
    if kind != FORM:
        raise RequestError(f"the body is of type {kind or 'none'!r}; send a form, {FORM}, or {JSON}")
    try:
        async with bounded.form(max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=MAX_BODY) as form:
            return await _fields(form)
    except HTTPException as problem:
        raise RequestError(f"the form cannot be read ({problem.detail}); send it as {FORM}") from None


def _bounded(request: Request) -> Callable[[], Awaitable[Message]]:
    """Receives the body, and raises RequestError once it is larger than any that is allowed."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise RequestError(f"the body is larger than {MAX_BODY // 2**20} MiB; save image and mask smaller")
        return message

    return receive


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RequestError("the body is not valid JSON; send an object with at least a prompt and an image")
    return found


async def _fields(form: FormData) -> dict[str, Any]:
    """A form's fields; those that are left empty are left out, but for an empty prompt."""
    found: dict[str, Any] = {}
    for key, value in form.multi_items():
        name = key.removesuffix("[]")  # how OpenAI's clients write one of several images
        if name in found:
            raise RequestError(f"{name} is there twice; give it once: one picture is edited at a time")
        if isinstance(value, UploadFile):
            found[name] = await value.read()
        elif name in NESTED and value:
            found[name] = _nested(name, value)
        elif value or name in ("prompt", "negative_prompt"):
            found[name] = value
    return found


def _nested(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        example = '[{"name": "dog-rex", "scale": 0.8}]' if name == "adapters" else "[0, 0]"
        raise RequestError(f"{name} is no JSON; in a form write it so: {example}") from None


def _documented() -> dict[str, Any]:
    """The body in OpenAPI's terms; the schemas that it refers to are there for generations."""
    schema = EditsRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"required": True, "content": {FORM: {"schema": schema}, JSON: {"schema": schema}}}
