"""A request on its way through the engine, and the row it becomes. Refuses to know threads."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass

import torch

from lorafleet.numerics.samplers import sampler_table
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapter
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.prompts import read_prompt, trigger_table
from lorafleet_serve.engine.requests import GeneratedImage, GenerateRequest, Settings
from lorafleet_serve.engine.rows import Row


@dataclass(frozen=True, eq=False)
class RequestState:
    """A request that was accepted."""

    id: int
    request: GenerateRequest
    settings: Settings
    loads: tuple[Future[HostAdapter], ...]
    future: Future[GeneratedImage]

    @property
    def hosts(self) -> list[HostAdapter]:
        """Its adapters, once their loads are done; raises what kept one from it."""
        return [load.result() for load in self.loads]


def make_row(ticket: RequestState, model: Pipeline, slots: DeviceAdapterCache) -> Row:
    """The row before its first step; its adapters must be leased. RequestError if the prompt is too long."""
    request, settings, hosts = ticket.request, ticket.settings, ticket.hosts
    adapters, scales = [host.adapter for host in hosts], [use.scale for use in request.adapters]
    triggers = trigger_table(adapters)
    untold = request.negative_prompt if settings.guided else None
    positive, negative = model.pair(
        read_prompt(request.prompt, triggers),
        None if untold is None else read_prompt(untold, triggers),
        list(zip(adapters, scales, strict=True)),
        settings.clip_skip,
    )
    table = sampler_table(model.base, settings.scheduler, settings.steps)
    noise = model.noise(settings.width, settings.height, settings.seed)
    x = noise.draw(0) * table.init_noise_sigma
    return Row(
        id=ticket.id,
        table=table,
        noise=noise,
        guidance=settings.guidance_scale,
        guidance_rescale=settings.guidance_rescale,
        worn=tuple((slots.there(host), s) for host, s in zip(hosts, scales, strict=True) if host.flat and s),
        positive=positive,
        negative=negative,
        time_ids=torch.tensor([settings.time_ids()], dtype=torch.float32, device=model.loaded.device),
        x=x,
        x0_prev=torch.zeros_like(x),
    )


def succeed(future: Future[GeneratedImage], made: GeneratedImage) -> None:
    """Gives a future its image, unless its caller gave up or the engine ended meanwhile."""
    with suppress(InvalidStateError):
        future.set_result(made)


def fail(future: Future[GeneratedImage], problem: BaseException) -> None:
    """Gives a future its error, likewise."""
    with suppress(InvalidStateError):
        future.set_exception(problem)
