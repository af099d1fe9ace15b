"""One image in this process: the same engine as the server's, without a server."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorafleet.bases import find_base
from lorafleet.bundle.folder_registry import version_of
from lorafleet.bundle.ports import AdapterRegistry
from lorafleet.errors import RequestError, UnreachableError
from lorafleet.home import Home
from lorafleet.numerics.samplers import sampler_names, sampler_table
from lorafleet.util.quiet import quiet_libraries
from lorafleet_serve.adapters.spec import AdapterSpec
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.prompt_tags import unnamed_trigger_note, unnamed_triggers
from lorafleet_serve.engine.requests import AdapterUse, GeneratedImage, GenerateRequest, with_defaults

LEAST_QUEUE = 64
"""Requests that wait beside those that are made, where nobody said how many come."""


def resolve(specs: Sequence[AdapterSpec], base: str | None = None) -> tuple[AdapterUse, ...]:
    """Finds adapters in the home's registry or, where a folder is named, on disk; NotFoundError, BundleError.

    `base` is the one they are wanted for: a name may have a champion on each of several.
    """
    uses = []
    for spec in specs:
        if spec.folder is not None:
            uses.append(AdapterUse(version_of(spec.folder), spec.scale))
        else:
            uses.append(AdapterUse(_home_registry(base).resolve(spec.name, spec.version), spec.scale))
    return tuple(uses)


def notes_on(prompt: str, uses: Sequence[AdapterUse]) -> tuple[str, ...]:
    """Notes on triggers of registered adapters that are not used; the registry is asked only if there may be any."""
    unnamed = unnamed_triggers(prompt, [use.adapter.name for use in uses])
    if not unnamed:
        return ()
    try:
        registered = {adapter.name for adapter in _home_registry().list()}
    except UnreachableError:  # without a registry there are no notes, and an image all the same
        return ()
    return tuple(unnamed_trigger_note(name) for name in unnamed if name in registered)


def base_of(uses: Sequence[AdapterUse], default: str) -> str:
    """The base that all the adapters were made for, or `default` without adapters; RequestError if they differ."""
    bases = sorted({use.adapter.base for use in uses})
    if len(bases) > 1:
        raise RequestError(f"the adapters were made for {' and '.join(bases)}; name adapters of one base")
    return bases[0] if bases else default


def generate_image(request: GenerateRequest, base_name: str) -> GeneratedImage:
    """Loads the base, makes the image, and frees everything. On the GPU if there is one."""
    engine = open_engine(base_name, [request])
    try:
        return engine.submit(request).result()
    finally:
        engine.close(drain=False)


def open_engine(base_name: str, requests: Sequence[GenerateRequest] = (), max_rows: int = 1) -> StepEngine:
    """An engine on a base, with room for `requests`, on the GPU if there is one; its caller closes it.

    A bad request is refused before seconds of loading. Raises RequestError, BaseModelError.
    """
    quiet_libraries()
    base = find_base(base_name)
    samplers = sampler_names(base)
    for settings in [with_defaults(request, base, samplers) for request in requests]:
        sampler_table(base, settings.scheduler, settings.steps)
    gpu = torch.cuda.is_available()
    model = Pipeline.load(base, "cuda" if gpu else "cpu", "fp16" if gpu else "fp32")
    return StepEngine(model, max_rows=max_rows, max_queue=max(LEAST_QUEUE, len(requests)))


def _home_registry(base: str | None = None) -> AdapterRegistry:
    from lorafleet.tracking import MlflowRegistry  # takes seconds, and is needed for registered adapters alone

    home = Home.from_environment()
    return MlflowRegistry(home.tracking_uri, home.adapter_cache, base=base)
