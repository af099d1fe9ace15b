"""Adapters as models: what clients that can only name a `model` choose by.

    toy-playground            the served base
    rex  rex@3  rex@champion  an adapter on it, as in `adapters`
    toy-playground:rex        the same, as clients write it that keep a base and its variants apart

    dall-e-3                  what clients send that were told nothing; the base, where the server is told to take it

Knows names. Refuses to know the registry: whether there is such an adapter is found out where it is resolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lorafleet.bases import Base
from lorafleet.bundle.ports import CHAMPION, AdapterVersion
from lorafleet.config.wording import NAME_PATTERN
from lorafleet.errors import NotFoundError
from lorafleet_serve.api.lists import AdapterModel, ModelInfo
from lorafleet_serve.api.schemas import AdapterChoice, ImagesRequest
from lorafleet_serve.engine.requests import check_adapter_count, most_clip_skip, recommended_sizes

USUAL_DEFAULTS = re.compile(r"(openai/)?(dall-e-[23]|gpt-image-[0-9.]+(-mini)?|chatgpt-image-latest)")
"""What clients ask for that nobody told a model."""
LINKLESS = re.compile(r"(openai/)?gpt-image-")
"""Models of OpenAI's whose answers never have links."""


def is_usual_default(model: str) -> bool:
    """Whether a client may ask for this model because nobody told it another."""
    return USUAL_DEFAULTS.fullmatch(model) is not None


def with_model(request: ImagesRequest, base: str) -> ImagesRequest:
    """The request with the adapter that its `model` names among `adapters`; the same again changes nothing.

    Raises NotFoundError for what can be no adapter's name.
    """
    if request.model in (None, base):
        return request
    choice = choice_of(str(request.model), base)
    if choice.name in [each.name for each in request.adapters]:  # who names it in both places says its scale there
        return request
    check_adapter_count(len(request.adapters) + 1)
    return request.with_changes(adapters=(choice, *request.adapters))


def choice_of(model: str, base: str) -> AdapterChoice:
    """The adapter that a model id names. Raises NotFoundError for what can be no adapter's name."""
    name, at, version = model.removeprefix(f"{base}:").partition("@")
    if re.match(NAME_PATTERN, name) is None or (at and not version):
        raise NotFoundError(
            f"model {model!r} is neither the served base nor the name of an adapter; use {base!r}, NAME or NAME@VERSION"
        )
    return AdapterChoice(name=name, version=version or None)


def unknown_model(model: str, base: str, problem: NotFoundError) -> NotFoundError:
    """What to tell somebody whose `model` is no adapter."""
    return NotFoundError(f"model {model!r} is not served: the base is {base!r}, and {problem}")


def trigger_note(request: ImagesRequest, adapters: Iterable[AdapterVersion]) -> str | None:
    """How to name the subject of the adapter that is the request's model, if its prompt does not; None otherwise."""
    name = (request.model or "").rpartition(":")[2].partition("@")[0]
    adapter = next((each for each in adapters if each.name == name), None)
    if adapter is None or not adapter.triggers or any(word in request.prompt for word in (*adapter.triggers, "TOK")):
        return None
    word = adapter.triggers[0]
    return f"the prompt does not name what {name} has learned; write {word}, as in: a photo of {word}"


def is_on(adapter: AdapterVersion, base: Base) -> bool:
    """Whether an adapter was made for a base: for the same weights, under whatever name."""
    if not adapter.base_fingerprint:  # it was registered before fingerprints were
        return adapter.base == base.name
    return base.is_named(adapter.base_fingerprint)


def adapter_models(versions: Iterable[AdapterVersion], base: Base, created: int) -> tuple[AdapterModel, ...]:
    """One model for each adapter of a base: its champion, or its newest version where none is champion."""
    chosen: dict[str, AdapterVersion] = {}
    for version in versions:
        known = chosen.get(version.name)
        if is_on(version, base) and (known is None or _rank(version) > _rank(known)):
            chosen[version.name] = version
    return tuple(adapter_model(chosen[name], version=None, created=created) for name in sorted(chosen))


def base_model(base: Base, samplers: tuple[str, ...], created: int) -> ModelInfo:
    """The served base as a model."""
    return ModelInfo(
        id=base.name,
        created=created,
        prediction=base.prediction,
        licence=base.licence,
        fingerprint=base.fingerprint,
        resolution=base.resolution,
        sizes=tuple(f"{width}x{height}" for width, height in recommended_sizes(base)),
        schedulers=samplers,
        default_steps=base.default_steps,
        default_guidance_scale=base.default_guidance,
        default_guidance_scales={name: base.guidance_with(name) for name in samplers},
        max_clip_skip=most_clip_skip(base),
    )


def adapter_model(adapter: AdapterVersion, version: str | None, created: int) -> AdapterModel:
    """A version as a model, under the id by which it was asked for."""
    return AdapterModel(
        id=adapter.name if version is None else f"{adapter.name}@{version}",
        created=created,
        base=adapter.base,
        version=adapter.version,
        aliases=adapter.aliases,
        triggers=adapter.triggers,
    )


def _rank(version: AdapterVersion) -> tuple[bool, int]:
    return CHAMPION in version.aliases, version.version
