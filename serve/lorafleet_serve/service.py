"""From an API request to images: adapters resolved, seeds drawn, rows awaited, PNGs made.

Knows the engine, the registry and the API's shapes; refuses to know HTTP and Ray. `Backend` is what the routes need;
`EngineService` is it in one process.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from concurrent.futures import Future
from typing import Protocol

from lorafleet.errors import NotFoundError
from lorafleet.ports import AdapterRegistry, AdapterVersion
from lorafleet_serve.engine import StepEngine
from lorafleet_serve.images import png_bytes
from lorafleet_serve.requests import AdapterUse, GeneratedImage, GenerateRequest
from lorafleet_serve.schemas import (
    AdapterInfo,
    AdapterList,
    AppliedAdapter,
    ImageData,
    ImagesReply,
    ImagesRequest,
    ModelInfo,
    ModelList,
)


class Backend(Protocol):
    """What answers the routes. Every method may raise a LorafleetError."""

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Makes the images asked for."""

    async def adapters(self) -> AdapterList:
        """Every registered adapter version."""

    async def models(self) -> ModelList:
        """The served base."""

    async def ready(self) -> None:
        """Returns if requests can be taken now, else raises UnreachableError."""


class EngineService:
    """A `Backend` on an engine in this process."""

    def __init__(self, engine: StepEngine, registry: AdapterRegistry) -> None:
        self.engine, self.registry = engine, registry
        self._started = int(time.time())

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Enqueues and awaits; if one image fails or the caller leaves, the others of the request are cancelled."""
        self._check_model(request.model)
        uses = await asyncio.to_thread(self._resolve, request)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        futures: list[Future[GeneratedImage]] = []
        try:
            for i in range(request.n):
                futures.append(self.engine.submit(to_engine(request, uses, seed + i)))
            made = await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
        finally:
            for future in futures:
                future.cancel()
        return await asyncio.to_thread(self._reply, list(made))

    async def adapters(self) -> AdapterList:
        """Asks the registry, off the event loop."""
        found = await asyncio.to_thread(self.registry.list)
        return AdapterList(adapters=tuple(_info(adapter) for adapter in found))

    async def models(self) -> ModelList:
        """The one base that this engine holds."""
        base = self.engine.model.base
        model = ModelInfo(
            id=base.name,
            created=self._started,
            prediction=base.prediction,
            licence=base.licence,
            resolution=base.resolution,
            schedulers=self.engine.model.samplers,
            default_steps=base.default_steps,
            default_guidance_scale=base.default_guidance,
        )
        return ModelList(data=(model,))

    async def ready(self) -> None:
        """Asks the engine's heartbeat."""
        self.engine.check()

    def _check_model(self, model: str | None) -> None:
        served = self.engine.model.base.name
        if model not in (None, served):
            raise NotFoundError(f"model {model!r} is not served here; use {served!r} or leave model out")

    def _resolve(self, request: ImagesRequest) -> tuple[AdapterUse, ...]:
        return tuple(
            AdapterUse(
                self.registry.resolve(choice.name, None if choice.version is None else str(choice.version)),
                choice.scale,
            )
            for choice in request.adapters
        )

    def _reply(self, made: list[GeneratedImage]) -> ImagesReply:
        base, first = self.engine.model.base, made[0]
        settings = first.settings
        return ImagesReply(
            created=int(time.time()),
            data=tuple(
                ImageData(b64_json=base64.b64encode(png_bytes(one, base)).decode(), seed=one.settings.seed)
                for one in made
            ),
            seed=settings.seed,
            model=base.name,
            adapters=tuple(_applied(use) for use in first.request.adapters),
            size=f"{settings.width}x{settings.height}",
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            scheduler=settings.scheduler,
        )


def to_engine(request: ImagesRequest, uses: tuple[AdapterUse, ...], seed: int) -> GenerateRequest:
    """One image of an API request."""
    width, height = request.sides()
    return GenerateRequest(
        prompt=request.prompt,
        seed=seed,
        negative_prompt=request.negative_prompt,
        adapters=uses,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        scheduler=request.scheduler,
        width=width,
        height=height,
    )


def _applied(use: AdapterUse) -> AppliedAdapter:
    adapter = use.adapter
    return AppliedAdapter(name=adapter.name, version=adapter.version, scale=use.scale, run_id=adapter.run_id)


def _info(adapter: AdapterVersion) -> AdapterInfo:
    return AdapterInfo(
        name=adapter.name,
        version=adapter.version,
        aliases=adapter.aliases,
        base=adapter.base,
        triggers=adapter.triggers,
        run_id=adapter.run_id,
    )
