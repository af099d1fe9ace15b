"""The HTTP API: its routes. Knows a `Backend`; refuses to know engines and Ray."""

import math
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response

import lorafleet
from lorafleet.errors import NotFoundError
from lorafleet_serve.api.a1111.routes import add_a1111
from lorafleet_serve.api.edits import add_edits
from lorafleet_serve.api.error_replies import add_error_replies, error_of
from lorafleet_serve.api.generation import LINKS, Generation
from lorafleet_serve.api.image_jobs.image_jobs import ImageJobs
from lorafleet_serve.api.image_jobs.job_limits import JobLimits
from lorafleet_serve.api.image_jobs.job_routes import add_jobs
from lorafleet_serve.api.lists import (
    MOST_LISTED,
    AdapterList,
    AdapterModel,
    AdapterVersions,
    ModelInfo,
    ModelList,
    Page,
)
from lorafleet_serve.api.metrics import CONTENT_TYPE, HttpMetrics, Metered, exposition
from lorafleet_serve.api.schemas import ErrorReply, ImagesReply, ImagesRequest
from lorafleet_serve.api.service import Backend
from lorafleet_serve.api.words.json_bodies import JsonByDefault

Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="How many at most.")]
After = Annotated[str | None, Query(max_length=200, description="The last one of the page before.")]
Search = Annotated[str | None, Query(max_length=200, description="Letters of a name or of a trigger.")]


def build_app(
    backend: Backend, ingress: str = "0", accept_any_model: bool = False, limits: JobLimits | None = None
) -> FastAPI:
    """The application on a backend, which its handlers await. `ingress` names this process in metrics and jobs' ids."""
    metrics, generation = HttpMetrics(ingress), Generation(backend, accept_any_model)
    app = FastAPI(title="lorafleet", version=lorafleet.__version__, responses={"4XX": {"model": ErrorReply}})
    add_error_replies(app)
    app.add_middleware(Metered, metrics=metrics)
    app.add_middleware(JsonByDefault)
    _add_images(app, generation)
    add_edits(app, generation)
    add_jobs(app, ImageJobs(backend, error_of, ingress, limits), generation.understood)
    _add_lists(app, backend)
    add_a1111(app, generation)
    _add_monitoring(app, backend, metrics)
    return app


def _add_images(app: FastAPI, generation: Generation) -> None:
    """Adds what makes images in OpenAI's way."""

    @app.post("/v1/images/generations")
    async def generate(body: ImagesRequest, request: Request) -> ImagesReply:
        """Makes images. Each request has its own adapters and options; requests share batches."""
        return await generation.make(body, str(request.base_url))

    @app.head(f"/{LINKS}/{{file}}", include_in_schema=False)
    @app.get(f"/{LINKS}/{{file}}", response_class=Response)
    async def linked(file: str) -> Response:
        """The image of a link in an answer."""
        kept = generation.image(file)
        if kept is None:
            raise NotFoundError(f"there is no image here now; links last {generation.links.seconds / 60:g} minutes")
        caching = {"Cache-Control": f"private, max-age={math.ceil(generation.links.seconds)}"}
        return Response(kept.data, media_type=kept.media_type, headers=caching | {"X-Content-Type-Options": "nosniff"})


def _add_lists(app: FastAPI, backend: Backend) -> None:
    """Adds what says which models and adapters there are."""

    @app.get("/v1/adapters")
    async def adapters(limit: Limit = MOST_LISTED, after: After = None, search: Search = None) -> AdapterList:
        """The registered adapters: every version by name, the newest first."""
        return await backend.adapters(Page(limit, after, search))

    @app.get("/v1/adapters/{name}")
    async def versions(name: str) -> AdapterVersions:
        """The versions of one adapter, the newest first."""
        return await backend.versions(name)

    @app.get("/v1/models")
    async def models(limit: Limit = MOST_LISTED, after: After = None, search: Search = None) -> ModelList:
        """The served base, and the adapters on it: each can be a request's `model`."""
        return await backend.models(Page(limit, after, search))

    @app.get("/v1/models/{model:path}")
    async def one_model(model: str) -> ModelInfo | AdapterModel:
        """The served base, or an adapter on it: NAME, NAME@VERSION or NAME@ALIAS."""
        return await backend.model(model)


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
