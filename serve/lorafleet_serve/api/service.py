"""From an API request to images: adapters resolved, seeds drawn, rows awaited, PNGs made.

Knows the engine, the registry and the API's shapes; refuses to know HTTP and Ray. `Backend` is what the routes need;
`EngineService` is it in one process.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import Protocol

from lorafleet.bundle.ports import AdapterRegistry, AdapterVersion
from lorafleet.errors import BundleError, BusyError, NotFoundError, UnreachableError
from lorafleet_serve.adapters.resolver import Freshness, Resolver
from lorafleet_serve.api.metrics import ReplicaStats
from lorafleet_serve.api.png import png_bytes
from lorafleet_serve.api.schemas import (
    AdapterChoice,
    AdapterInfo,
    AdapterList,
    AppliedAdapter,
    ImageData,
    ImagesReply,
    ImagesRequest,
    ModelInfo,
    ModelList,
    sides,
)
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.named import lone_trigger_note, lone_triggers
from lorafleet_serve.engine.requests import (
    AdapterUse,
    GeneratedImage,
    GenerateRequest,
    most_clip_skip,
    recommended_sizes,
)
from lorafleet_serve.stats import retry_after_seconds

HOLD_TRIES = 3
NOTE_SECONDS = 1.0
"""How long finished images wait for what the registry says of triggers that may be nobody's."""


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

    async def stats(self) -> tuple[ReplicaStats, ...]:
        """The counts of every replica that answers."""


class EngineService:
    """A `Backend` on an engine in this process."""

    def __init__(
        self, engine: StepEngine, registry: AdapterRegistry, freshness: Freshness | None = None, replica: str = "0"
    ) -> None:
        self.engine, self.registry, self.replica = engine, registry, replica
        self.resolver = Resolver(registry, freshness or Freshness())
        self._places: dict[str, str] = {}  # by name: the folder of an adapter that was asked for here
        self._started = int(time.time())

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Enqueues and awaits; if one image fails or the caller leaves, the others of the request are cancelled."""
        self._check_model(request.model)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        futures: list[Future[GeneratedImage]] = []
        lone = self._lone(request)
        with ExitStack() as held:
            uses = await self._uses(request, held)
            try:
                for i in range(request.n):
                    futures.append(self.engine.submit(to_engine(request, uses, seed + i)))
                made = await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
            except BusyError as problem:
                problem.retry_after_s = retry_after_seconds(self.engine.stats())
                raise
            except BundleError:
                self._look_again(request)
                raise
            finally:
                for future in futures:
                    future.cancel()
        notes = await asyncio.to_thread(_notes, lone)
        return await asyncio.to_thread(self._reply, list(made), notes)

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
            sizes=tuple(f"{width}x{height}" for width, height in recommended_sizes(base)),
            schedulers=self.engine.model.samplers,
            default_steps=base.default_steps,
            default_guidance_scale=base.default_guidance,
            default_guidance_scales={name: base.guidance_with(name) for name in self.engine.model.samplers},
            max_clip_skip=most_clip_skip(base),
        )
        return ModelList(data=(model,))

    async def ready(self) -> None:
        """Asks the engine's heartbeat."""
        self.engine.check()

    async def stats(self) -> tuple[ReplicaStats, ...]:
        """The counts of this process, under the replica's name."""
        disk = await asyncio.to_thread(self.registry.cache_stats)
        return (ReplicaStats(self.replica, self.engine.stats(), self.resolver.stats(), disk),)

    def rows(self) -> int:
        """Images that run or wait here."""
        stats = self.engine.stats()
        return stats.rows_running + stats.rows_waiting

    def held(self) -> set[str]:
        """Names of the adapters in the engine's memory."""
        there = self.engine.adapters_held()
        self._places = {name: place for name, place in self._places.items() if place in there}
        return set(self._places)

    def _check_model(self, model: str | None) -> None:
        served = self.engine.model.base.name
        if model not in (None, served):
            raise NotFoundError(f"model {model!r} is not served here; use {served!r} or leave model out")

    async def _uses(self, request: ImagesRequest, held: ExitStack) -> tuple[AdapterUse, ...]:
        """The request's adapters, asked for all at once; their bundles stay on this machine until `held` is closed."""
        for choice in request.adapters:
            self.resolver.find(choice.name, _version(choice))
        return tuple([AdapterUse(await self._hold(choice, held), choice.scale) for choice in request.adapters])

    async def _hold(self, choice: AdapterChoice, held: ExitStack) -> AdapterVersion:
        for _ in range(HOLD_TRIES):
            found = self.resolver.find(choice.name, _version(choice))
            adapter = await asyncio.shield(asyncio.wrap_future(found))  # others may wait for the same one
            if held.enter_context(self.registry.hold(adapter)):
                self._places[adapter.name] = str(adapter.path.resolve())
                return adapter
            self.resolver.forget(choice.name, _version(choice))  # room was made of it: fetched again
        raise UnreachableError(
            f"adapter {choice.name!r} was dropped from the disk cache {HOLD_TRIES} times before it was read: more "
            "adapters are in use than fit; raise cache_gib"
        )

    def _lone(self, request: ImagesRequest) -> dict[str, Future[AdapterVersion]]:
        """The registry's word on what stands in the prompt like a trigger and is named nowhere, now or soon."""
        named = [choice.name for choice in request.adapters]
        return {name: self.resolver.find(name) for name in lone_triggers(request.prompt, named)}

    def _look_again(self, request: ImagesRequest) -> None:
        for choice in request.adapters:
            self.resolver.forget(choice.name, _version(choice))

    def _reply(self, made: list[GeneratedImage], notes: tuple[str, ...]) -> ImagesReply:
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
            notes=notes,
        )


def _notes(lone: Mapping[str, Future[AdapterVersion]]) -> tuple[str, ...]:
    """Of those that turn out to be adapters, as far as the registry says so by the time the images are done."""
    done, _ = wait(lone.values(), NOTE_SECONDS)
    return tuple(lone_trigger_note(name) for name, one in lone.items() if one in done and one.exception() is None)


def _version(choice: AdapterChoice) -> str | None:
    return None if choice.version is None else str(choice.version)


def to_engine(request: ImagesRequest, uses: tuple[AdapterUse, ...], seed: int) -> GenerateRequest:
    """One image of an API request."""
    width, height = sides(request.size) or (None, None)
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
        guidance_rescale=request.guidance_rescale,
        clip_skip=request.clip_skip,
        original_size=sides(request.original_size),
        crop=request.crop,
        target_size=sides(request.target_size),
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
