"""From an API request to images: resolves adapters, draws seeds, awaits the engine, makes PNGs.

Knows the engine, the registry and the API's bodies; refuses to know HTTP and Ray. `Backend` is what the routes need;
`EngineService` implements it on an engine in this process.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import Protocol

from lorafleet.bundle.ports import AdapterRegistry, AdapterVersion
from lorafleet.errors import BundleError, BusyError, NotFoundError, UnreachableError
from lorafleet_serve.adapters.resolver import Freshness, Resolver
from lorafleet_serve.api.edit_inputs import InitImages
from lorafleet_serve.api.metrics import ReplicaStats
from lorafleet_serve.api.model_ids import (
    adapter_model,
    adapter_models,
    choice_of,
    trigger_note,
    unknown_model,
    with_model,
)
from lorafleet_serve.api.png import png_bytes
from lorafleet_serve.api.removed import RemovalWatch
from lorafleet_serve.api.schemas import (
    AdapterChoice,
    AdapterInfo,
    AdapterList,
    AdapterModel,
    AppliedAdapter,
    ImageData,
    ImagesReply,
    ImagesRequest,
    ModelInfo,
    ModelList,
    parse_size,
    unused_note,
)
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.init_image import InitImage
from lorafleet_serve.engine.prompt_tags import unnamed_trigger_note, unnamed_triggers
from lorafleet_serve.engine.requests import (
    AdapterUse,
    GeneratedImage,
    GenerateRequest,
    ImageOptions,
    most_clip_skip,
    recommended_sizes,
)
from lorafleet_serve.stats import retry_after_seconds

log = logging.getLogger(__name__)
HOLD_TRIES = 3
NOTE_SECONDS = 1.0
"""How long finished images wait for the registry's answers about triggers of adapters that were not named."""


class Backend(Protocol):
    """What the routes call. Every method may raise a LorafleetError."""

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Makes the images asked for."""

    async def adapters(self) -> AdapterList:
        """Every registered adapter version."""

    async def models(self) -> ModelList:
        """The served base, and the adapters on it."""

    async def model(self, model: str) -> ModelInfo | AdapterModel:
        """The served base, or an adapter on it, by its id as a model; NotFoundError."""

    async def base(self) -> str:
        """The served base's name."""

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
        self.removals = RemovalWatch(engine, registry, self.resolver)
        self._started = int(time.time())
        self._init_images = InitImages(engine.model.base)

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Queues the images and awaits them; if one fails or the caller leaves, the request's others are cancelled."""
        request = with_model(request, self.engine.model.base.name)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        futures: list[Future[GeneratedImage]] = []
        unnamed, init = self._unnamed(request), await self._init_images.of(request)
        with ExitStack() as held:
            uses = await self._uses(request, held)
            try:
                for i in range(request.n):
                    futures.append(self.engine.submit(to_engine(request, uses, seed + i, init)))
                images = await asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
            except BusyError as problem:
                problem.retry_after_s = retry_after_seconds(self.engine.stats())
                raise
            except BundleError:
                self._forget(request)
                raise
            finally:
                for future in futures:
                    future.cancel()
        hints = (trigger_note(request, [use.adapter for use in uses]), unused_note(request))
        notes = (*await asyncio.to_thread(_notes, unnamed), *(hint for hint in hints if hint is not None))
        return await asyncio.to_thread(self._reply, list(images), notes)

    async def adapters(self) -> AdapterList:
        """Every registered adapter version; asks the registry in another thread."""
        versions = await asyncio.to_thread(self.registry.list)
        return AdapterList(adapters=tuple(_info(version) for version in versions))

    async def base(self) -> str:
        """The name of the one base that this engine holds."""
        return self.engine.model.base.name

    async def models(self) -> ModelList:
        """The base, then the adapters on it. While the registry does not answer, the base alone."""
        base = self._base_info()
        try:
            versions = await asyncio.to_thread(self.registry.list)
        except UnreachableError as problem:
            log.warning("adapters are not listed: %s", problem)
            versions = []
        return ModelList(data=(base, *adapter_models(versions, base.id, self._started)))

    async def model(self, model: str) -> ModelInfo | AdapterModel:
        """The base, or an adapter on it, by its id as a model. NotFoundError, UnreachableError."""
        base = self._base_info()
        if model == base.id:
            return base
        choice = choice_of(model, base.id)
        try:
            adapter = await asyncio.wrap_future(self.resolver.find(choice.name, _version(choice)))
        except NotFoundError as problem:
            raise unknown_model(model, base.id, problem) from None
        return adapter_model(adapter, _version(choice), self._started)

    def _base_info(self) -> ModelInfo:
        base = self.engine.model.base
        return ModelInfo(
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

    async def ready(self) -> None:
        """UnreachableError if a thread of the engine died or hangs."""
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
        return {adapter.name for adapter in self.removals.held()}

    async def _uses(self, request: ImagesRequest, held: ExitStack) -> tuple[AdapterUse, ...]:
        """The request's adapters, all resolved at once; their bundles stay on this machine until `held` is closed."""
        for choice in request.adapters:
            self.resolver.find(choice.name, _version(choice))
        try:
            return tuple([AdapterUse(await self._hold(choice, held), choice.scale) for choice in request.adapters])
        except NotFoundError as problem:
            base = self.engine.model.base.name
            if request.model in (None, base):
                raise
            raise unknown_model(str(request.model), base, problem) from None

    async def _hold(self, choice: AdapterChoice, held: ExitStack) -> AdapterVersion:
        for _ in range(HOLD_TRIES):
            resolving = self.resolver.find(choice.name, _version(choice))
            adapter = await asyncio.shield(asyncio.wrap_future(resolving))  # other requests may wait for the same one
            if held.enter_context(self.registry.hold(adapter)):
                self.removals.used(adapter)
                return adapter
            self.resolver.forget(choice.name, _version(choice))  # it was evicted from the disk cache: fetched again
        raise UnreachableError(
            f"adapter {choice.name!r} was dropped from the disk cache {HOLD_TRIES} times before it was read: more "
            "adapters are in use than fit; raise cache_gib"
        )

    def _unnamed(self, request: ImagesRequest) -> dict[str, Future[AdapterVersion]]:
        """The adapters, if there are such, whose triggers are in the prompt and that the request does not name."""
        named = [choice.name for choice in request.adapters]
        return {name: self.resolver.find(name) for name in unnamed_triggers(request.prompt, named)}

    def _forget(self, request: ImagesRequest) -> None:
        for choice in request.adapters:
            self.resolver.forget(choice.name, _version(choice))

    def _reply(self, images: list[GeneratedImage], notes: tuple[str, ...]) -> ImagesReply:
        settings = images[0].settings
        return ImagesReply(
            created=int(time.time()),
            data=tuple(
                ImageData(b64_json=base64.b64encode(png_bytes(image)).decode(), seed=image.settings.request.seed)
                for image in images
            ),
            seed=settings.request.seed,
            model=settings.base.name,
            adapters=tuple(_applied(use) for use in settings.request.adapters),
            size=f"{settings.width}x{settings.height}",
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            scheduler=settings.scheduler,
            notes=notes,
        )


def _notes(unnamed: Mapping[str, Future[AdapterVersion]]) -> tuple[str, ...]:
    """Notes on the names that the registry has an adapter for, as far as it answers within `NOTE_SECONDS`."""
    done, _ = wait(unnamed.values(), NOTE_SECONDS)
    return tuple(
        unnamed_trigger_note(name)
        for name, resolving in unnamed.items()
        if resolving in done and resolving.exception() is None
    )


def _version(choice: AdapterChoice) -> str | None:
    return None if choice.version is None else str(choice.version)


def to_engine(
    request: ImagesRequest, uses: tuple[AdapterUse, ...], seed: int, init: InitImage | None = None
) -> GenerateRequest:
    """The engine's request for one image of an API request."""
    width, height = parse_size(request.size) or (None, None)
    return GenerateRequest(
        **request.model_dump(include=set(ImageOptions.model_fields)),
        seed=seed,
        adapters=uses,
        init=init,
        width=width,
        height=height,
        original_size=parse_size(request.original_size),
        target_size=parse_size(request.target_size),
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
