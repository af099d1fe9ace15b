"""A request on its way through the engine, and the row that is made of it. Refuses to know threads."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

import torch

from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapter
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.prompts import read_prompt, trigger_table
from lorafleet_serve.engine.requests import GeneratedImage, Settings
from lorafleet_serve.engine.rows import Row
from lorafleet_serve.engine.start import start_of


@dataclass(frozen=True, eq=False)
class RequestState:
    """A request that was accepted, the loads of its adapters, and the future of its image."""

    id: int
    settings: Settings
    loads: tuple[Future[HostAdapter], ...]
    future: Future[GeneratedImage]

    @property
    def host_adapters(self) -> list[HostAdapter]:
        """Its adapters, once their loads are done; raises what made a load fail."""
        return [load.result() for load in self.loads]


def make_row(state: RequestState, model: Pipeline, device_cache: DeviceAdapterCache) -> Row:
    """The row before its first step; its adapters must be leased. RequestError if the prompt is too long."""
    settings, request, host_adapters = state.settings, state.settings.request, state.host_adapters
    adapters, scales = [host.adapter for host in host_adapters], [use.scale for use in request.adapters]
    triggers = trigger_table(adapters)
    negative_prompt = request.negative_prompt if settings.guided else None
    positive, negative = model.pair(
        read_prompt(request.prompt, triggers),
        None if negative_prompt is None else read_prompt(negative_prompt, triggers),
        list(zip(adapters, scales, strict=True)),
        request.clip_skip,
    )
    start = start_of(settings, model)
    on_unet = [(host, scale) for host, scale in zip(host_adapters, scales, strict=True) if host.flat and scale]
    return Row(
        id=state.id,
        settings=settings,
        table=start.table,
        noise=start.noise,
        adapters=tuple((device_cache.get(host), scale) for host, scale in on_unet),
        positive=positive,
        negative=negative,
        time_ids=torch.tensor([settings.time_ids()], dtype=torch.float32, device=model.loaded.device),
        x=start.x,
        x0_prev=torch.zeros_like(start.x),
        draws=start.draws,
        inpainting=start.inpainting,
    )


def succeed(future: Future[GeneratedImage], image: GeneratedImage) -> None:
    """Sets a future's result, unless it was cancelled or has failed meanwhile."""
    with suppress(InvalidStateError):
        future.set_result(image)


def fail(future: Future[GeneratedImage], problem: BaseException) -> None:
    """Sets a future's exception, unless it was cancelled or has ended meanwhile."""
    with suppress(InvalidStateError):
        future.set_exception(problem)
