"""From an API request to images: resolves adapters, draws seeds, awaits the engine, makes image files.

Knows the engine, the registry and the API's bodies; refuses to know HTTP and Ray. `Backend` is what the routes need;
`EngineService` implements it on an engine in this process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import Protocol

from lorafleet.bundle.ports import AdapterRegistry, AdapterVersion
from lorafleet.config.manifest import MAX_ADAPTERS
from lorafleet.errors import BundleError, BusyError, NotFoundError, UnreachableError
from lorafleet_serve.adapters.resolver import Freshness, Resolver
from lorafleet_serve.api.edit_inputs import InitImages
from lorafleet_serve.api.lists import (
    FIRST_PAGE,
    AdapterList,
    AdapterModel,
    AdapterVersions,
    ModelInfo,
    ModelList,
    Page,
    adapter_info,
    adapter_page,
    model_page,
)
from lorafleet_serve.api.metrics import ReplicaStats
from lorafleet_serve.api.model_ids import (
    adapter_model,
    adapter_models,
    base_model,
    choice_of,
    is_on,
    trigger_note,
    unknown_model,
    with_model,
)
from lorafleet_serve.api.removed import RemovalWatch
from lorafleet_serve.api.replies import reply_to
from lorafleet_serve.api.schemas import (
    AdapterChoice,
    ImagesReply,
    ImagesRequest,
    parse_size,
    unused_notes,
)
from lorafleet_serve.api.words.sampler_names import sampler_named
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.init_image import InitImage
from lorafleet_serve.engine.prompt_tags import unnamed_trigger_note, unnamed_triggers
from lorafleet_serve.engine.requests import AdapterUse, GeneratedImage, GenerateRequest, ImageOptions
from lorafleet_serve.stats import retry_after_seconds

log = logging.getLogger(__name__)
HOLD_TRIES = 3
NOTE_SECONDS = 1.0
"""How long finished images wait for the registry's answers about triggers of adapters that were not named."""


class Backend(Protocol):
    """What the routes call. Every method may raise a LorafleetError."""

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Makes the images asked for."""

    async def adapters(self, page: Page = FIRST_PAGE) -> AdapterList:
        """The registered adapter versions."""

    async def versions(self, name: str) -> AdapterVersions:
        """The versions of one adapter; NotFoundError."""

    async def models(self, page: Page = FIRST_PAGE) -> ModelList:
        """The served base, and the adapters on it."""

    async def model(self, model: str) -> ModelInfo | AdapterModel:
        """The served base, or an adapter on it, by its id as a model; NotFoundError."""

    async def base(self) -> ModelInfo:
        """The served base."""

    async def ready(self) -> None:
        """Returns if requests can be taken now, else raises UnreachableError."""

    async def stats(self) -> tuple[ReplicaStats, ...]:
        """The counts of every replica that answers."""


class EngineService:
    """A `Backend` on an engine in this process."""

    def __init__(
        self,
        engine: StepEngine,
        registry: AdapterRegistry,
        freshness: Freshness | None = None,
        replica: str = "0",
        auto_adapters: bool = False,
    ) -> None:
        self.engine, self.registry, self.replica, self.auto_adapters = engine, registry, replica, auto_adapters
        self.resolver = Resolver(registry, freshness or Freshness())
        self.removals = RemovalWatch(engine, registry, self.resolver)
        self._started = int(time.time())
        self._init_images = InitImages(engine.model.base)

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Queues the images and awaits them; if one fails or the caller leaves, the request's others are cancelled."""
        request, warnings = await self._understood(request)
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
        warnings += await asyncio.to_thread(_notes, unnamed)
        if (hint := trigger_note(request, [use.adapter for use in uses])) is not None:
            warnings += (hint,)
        return await asyncio.to_thread(reply_to, request, list(images), warnings)

    async def adapters(self, page: Page = FIRST_PAGE) -> AdapterList:
        """The registered adapter versions; asks the registry in another thread."""
        return adapter_page(await asyncio.to_thread(self.registry.list), page)

    async def versions(self, name: str) -> AdapterVersions:
        """The versions of one adapter, the newest first. NotFoundError, UnreachableError."""
        versions = await asyncio.to_thread(self.registry.list)
        own = sorted((each for each in versions if each.name == name), key=lambda each: -each.version)
        if not own:
            raise NotFoundError(f"there is no adapter {name!r}; GET /v1/adapters lists them")
        return AdapterVersions(name=name, versions=tuple(adapter_info(each) for each in own))

    async def base(self) -> ModelInfo:
        """The one base that this engine holds."""
        model = self.engine.model  # the first time its weights are read for their fingerprint
        return await asyncio.to_thread(base_model, model.base, model.samplers, self._started)

    async def models(self, page: Page = FIRST_PAGE) -> ModelList:
        """The base, then the adapters on it. While the registry does not answer, the base alone."""
        try:
            versions = await asyncio.to_thread(self.registry.list)
        except UnreachableError as problem:
            log.warning("adapters are not listed: %s", problem)
            versions = []
        adapters = await asyncio.to_thread(adapter_models, versions, self.engine.model.base, self._started)
        return model_page(await self.base(), adapters, page)

    async def model(self, model: str) -> ModelInfo | AdapterModel:
        """The base, or an adapter on it, by its id as a model. NotFoundError, UnreachableError."""
        base = await self.base()
        if model == base.id:
            return base
        choice = choice_of(model, base.id)
        try:
            adapter = await asyncio.wrap_future(self.resolver.find(choice.name, _version(choice)))
        except NotFoundError as problem:
            raise unknown_model(model, base.id, problem) from None
        return adapter_model(adapter, _version(choice), self._started)

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

    async def _understood(self, request: ImagesRequest) -> tuple[ImagesRequest, tuple[str, ...]]:
        """The request with its model among its adapters and this base's name of its scheduler, and warnings."""
        request = with_model(request, self.engine.model.base.name)
        if request.scheduler is not None:
            named = sampler_named(request.scheduler, self.engine.model.samplers)
            request = request.with_changes(scheduler=named)
        warnings = unused_notes(request)
        for name, resolving in self._unnamed(request).items() if self.auto_adapters else ():
            adapter = await _found(resolving)
            if adapter is None or not is_on(adapter, self.engine.model.base) or len(request.adapters) >= MAX_ADAPTERS:
                continue  # it is noted like any trigger that is plain text
            request = request.with_changes(adapters=(*request.adapters, AdapterChoice(name=name)))
            warnings += (f"adapter {name!r} was added at scale 1, because <{name}> is in the prompt",)
        return request, warnings

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


async def _found(resolving: Future[AdapterVersion]) -> AdapterVersion | None:
    """The adapter that is being resolved; None if there is no such."""
    try:
        return await asyncio.shield(asyncio.wrap_future(resolving))  # other requests may wait for the same one
    except NotFoundError:
        return None


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
