"""One image in this process: the same engine as the server's, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorafleet.bases import Base, find_base
from lorafleet.bundle.folder_registry import version_of
from lorafleet.errors import RequestError, UnreachableError
from lorafleet.home import Home
from lorafleet.numerics.samplers import sampler_names, sampler_table
from lorafleet.util.quiet import quiet_libraries
from lorafleet_serve.adapters.spec import AdapterSpec
from lorafleet_serve.api.png import png_bytes
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.named import lone_trigger_note, lone_triggers
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import AdapterUse, GeneratedImage, GenerateRequest, settle


@dataclass(frozen=True)
class MadeImage:
    """A picture with the bytes of its PNG."""

    made: GeneratedImage
    png: bytes
    base: Base


def resolve(specs: Sequence[AdapterSpec]) -> tuple[AdapterUse, ...]:
    """Finds adapters in the home's registry or, where a folder is named, on disk; NotFoundError, BundleError."""
    uses = []
    for spec in specs:
        if spec.folder is not None:
            uses.append(AdapterUse(version_of(spec.folder), spec.scale))
            continue
        from lorafleet.tracking import MlflowRegistry

        home = Home.from_environment()
        found = MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve(spec.name, spec.version)
        uses.append(AdapterUse(found, spec.scale))
    return tuple(uses)


def notes_on(prompt: str, uses: Sequence[AdapterUse]) -> tuple[str, ...]:
    """What to say of triggers of registered adapters that are not used; the registry is asked only if there may be."""
    lone = lone_triggers(prompt, [use.adapter.name for use in uses])
    if not lone:
        return ()
    from lorafleet.tracking import MlflowRegistry

    home = Home.from_environment()
    try:
        known = {adapter.name for adapter in MlflowRegistry(home.tracking_uri, home.adapter_cache).list()}
    except UnreachableError:  # a note is not worth a picture
        return ()
    return tuple(lone_trigger_note(name) for name in lone if name in known)


def own_base(uses: Sequence[AdapterUse], default: str) -> str:
    """The base that all the adapters were made for; RequestError if they differ."""
    bases = sorted({use.adapter.base for use in uses})
    if len(bases) > 1:
        raise RequestError(f"the adapters were made for {' and '.join(bases)}; name adapters of one base")
    return bases[0] if bases else default


def make(request: GenerateRequest, base_name: str) -> MadeImage:
    """Loads the base, makes the image, and lets go of everything. On the GPU if there is one."""
    quiet_libraries()
    base = find_base(base_name)
    settings = settle(request, base, sampler_names(base))  # a bad request is answered before seconds of loading
    sampler_table(base, settings.scheduler, settings.steps)
    gpu = torch.cuda.is_available()
    model = Pipeline.load(base, "cuda" if gpu else "cpu", "fp16" if gpu else "fp32")
    engine = StepEngine(model, max_rows=1)
    try:
        made = engine.submit(request).result()
    finally:
        engine.close(drain=False)
    return MadeImage(made, png_bytes(made, model.base), model.base)
