"""Lists of models and adapters: their bodies, and a page of them.

The text below a field is its description in the API's documentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lorafleet.bundle.ports import AdapterVersion
from lorafleet_serve.api.schemas import Body

MOST_LISTED = 1000


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted."""

    limit: int = MOST_LISTED
    after: str | None = None
    """The id of the last one that the caller has."""
    search: str | None = None
    """Words of a name or a trigger; small and capital letters are the same."""

    def fits(self, *texts: str) -> bool:
        """Whether something with these names is searched for."""
        return self.search is None or any(self.search.lower() in text.lower() for text in texts)


FIRST_PAGE = Page()


class AdapterInfo(Body):
    """One registered adapter version."""

    name: str
    version: int
    aliases: tuple[str, ...]
    base: str
    triggers: tuple[str, ...]
    run_id: str | None


class AdapterList(Body):
    """What GET /v1/adapters answers: versions by name, the newest of each first."""

    adapters: tuple[AdapterInfo, ...]
    has_more: bool = False
    """Whether there are more: ask for those `after` the last, `NAME@VERSION`."""


class AdapterVersions(Body):
    """What GET /v1/adapters/NAME answers: its versions, the newest first."""

    name: str
    versions: tuple[AdapterInfo, ...]


class ModelInfo(Body):
    """The served base, with OpenAI's fields first."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lorafleet"
    prediction: str
    licence: str
    fingerprint: str
    """Identifies its weights by their values, whatever it is called."""
    resolution: int
    sizes: tuple[str, ...]
    """Sizes that the base was trained on, its own square first. Others are allowed: sides from a quarter of the
    resolution to twice it, in multiples of 8."""
    schedulers: tuple[str, ...]
    """The samplers that can be asked for, the base's own first."""
    default_steps: int
    default_guidance_scale: float
    """With the base's own scheduler."""
    default_guidance_scales: dict[str, float]
    """With each of the schedulers."""
    max_clip_skip: int
    """The largest `clip_skip` that is allowed."""


class AdapterModel(Body):
    """An adapter as a model, with OpenAI's fields first."""

    id: str
    """Its name, which means its champion; or as it was asked for, `NAME@VERSION`."""
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lorafleet"
    base: str
    version: int
    aliases: tuple[str, ...]
    triggers: tuple[str, ...]
    """The words of a prompt that stand for what it has learned."""


class ModelList(Body):
    """What GET /v1/models answers: the served base, then the adapters on it by name."""

    object: Literal["list"] = "list"
    data: tuple[ModelInfo | AdapterModel, ...]
    has_more: bool = False
    """Whether there are more: ask for those `after` the last one's id."""


def model_page(base: ModelInfo, adapters: Iterable[AdapterModel], page: Page) -> ModelList:
    """The part of a list of models, base first and then adapters by name, that a page asks for."""
    listed: list[ModelInfo | AdapterModel] = [base] if page.after is None and page.fits(base.id) else []
    after = "" if page.after in (None, base.id) else str(page.after)
    listed += [each for each in adapters if each.id > after and page.fits(each.id, *each.triggers)]
    return ModelList(data=tuple(listed[: page.limit]), has_more=len(listed) > page.limit)


def adapter_page(versions: Iterable[AdapterVersion], page: Page) -> AdapterList:
    """The part of a list of versions, by name and the newest first, that a page asks for."""
    name, _, number = (page.after or "").partition("@")
    after = (name, -int(number) if number.isdecimal() else 1)  # a name alone is after its versions
    ordered = sorted(versions, key=lambda version: (version.name, -version.version))
    listed = [
        adapter_info(version)
        for version in ordered
        if (page.after is None or (version.name, -version.version) > after)
        and page.fits(version.name, *version.triggers)
    ]
    return AdapterList(adapters=tuple(listed[: page.limit]), has_more=len(listed) > page.limit)


def adapter_info(adapter: AdapterVersion) -> AdapterInfo:
    """A version as the API describes it."""
    return AdapterInfo(
        name=adapter.name,
        version=adapter.version,
        aliases=adapter.aliases,
        base=adapter.base,
        triggers=adapter.triggers,
        run_id=adapter.run_id,
    )
