"""What captions photographs, and which captioners there are: those of lorafleet, and those that packages bring.

A package brings one by an entry point of the group `lorafleet.captioners`, a `CaptionerLoader`. Knows names; refuses to
know models, whose modules are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol

from PIL import Image

from lorafleet.errors import CaptionerError

GROUP = "lorafleet.captioners"
OWN = {name: f"lorafleet_jobs.captioning.{module}:load" for name, module in (
    ("florence-2", "florence"), ("blip", "blip"), ("wd14", "tags"), ("toy", "toy_words"),
)}  # fmt: skip
"""In the order in which they are tried."""
ONLY_NAMED = ("toy",)
"""Not taken unless it is named: it knows nothing but the toy world."""


class Captioner(Protocol):
    """Says in words what pictures show."""

    def caption(self, images: Sequence[Image.Image]) -> Sequence[str]:
        """One text for each RGB picture, in order, one line each; it knows nothing of `TOK` and subjects."""
        ...


class CaptionerLoader(Protocol):
    """Makes a captioner ready."""

    def __call__(self, model: str | None) -> Captioner:
        """The captioner with the weights `model`, a folder or a hub id; None takes what it knows and finds.

        Downloads nothing. Raises CaptionerError, which says what is missing and how to get it.
        """
        ...


@dataclass(frozen=True)
class NamedCaptioner:
    """A captioner that is ready."""

    name: str
    captioner: Captioner


def find_captioner(name: str | None = None, model: str | None = None) -> NamedCaptioner:
    """The captioner of a name, or the first that is ready: those that packages bring, then lorafleet's own.

    Raises CaptionerError with what every one of them lacks.
    """
    brought = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    known = {**dict(sorted(brought.items())), **{own: where for own, where in OWN.items() if own not in brought}}
    if name is not None:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise CaptionerError(f"no captioner is called {name!r}; {hint}")
        return NamedCaptioner(name, _load(name, known[name], model))
    if model is not None:
        names = ", ".join(known)
        raise CaptionerError(f"--model {model!r} names weights, but not what reads them; add --captioner: {names}")
    missing = []
    for each in known:
        if each in ONLY_NAMED:
            continue
        try:
            return NamedCaptioner(each, _load(each, known[each], None))
        except CaptionerError as problem:
            missing.append(f"{each}: {problem}")
    raise CaptionerError(
        f"no captioner is ready on this machine, and none is downloaded by itself. {'. '.join(missing)}. "
        "Pictures of the toy world take --captioner toy"
    )


def _load(name: str, where: str, model: str | None) -> Captioner:
    module, _, function = where.partition(":")
    try:
        loader: CaptionerLoader = getattr(import_module(module), function)
    except (ImportError, AttributeError) as problem:
        raise CaptionerError(
            f"captioner {name!r} cannot be loaded from {where}: {problem}; reinstall its package"
        ) from None
    return loader(model)
