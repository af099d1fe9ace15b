"""The layers that a subject's recipe is made of: the manifest's, its class's, its own; each over those before it.

Knows who says what and where it is written; refuses to know what keys do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorafleet.config import Manifest
from lorafleet.config.places import KeyPath, Place
from lorafleet_jobs.dataset.subjects import Subject

MANIFEST = "manifest"


@dataclass(frozen=True)
class Layer:
    """Some keys of a recipe."""

    origin: str
    """Who says so: manifest, defaults.dog, subject."""
    path: KeyPath
    """Of the keys, in the manifest."""
    keys: Mapping[str, Any]
    place: Place | None = None
    """Where they are written, if not in the manifest."""

    def says(self, path: KeyPath) -> bool:
        """Whether the layer has a recipe's key; of a mapping over a mapping, the inner key."""
        value = self.keys.get(str(path[0]))
        if path[0] not in self.keys or len(path) == 1 or not isinstance(value, Mapping):
            return path[0] in self.keys
        return path[1] in value


def layers_of(manifest: Manifest, subject: Subject | None = None, noun: str = "") -> tuple[Layer, ...]:
    """The layers of a subject's recipe, the lowest first; without a subject those of a class, or the manifest's."""
    layers = [Layer(MANIFEST, ("recipe",), manifest.recipe)]
    wanted = class_key(subject.class_noun or "" if subject is not None else noun)
    for written, keys in manifest.defaults.items():
        if class_key(written) == wanted:
            layers.append(Layer(f"defaults.{written}", ("defaults", written), _opened(keys)))
    if subject is not None and subject.recipe is not None:
        layers.append(Layer("subject", ("subjects", subject.entry, "recipe"), _opened(subject.recipe)))
    if subject is not None and subject.preset is not None:
        layers.append(Layer("subject", ("row",), {"preset": subject.preset}, subject.places.get("preset")))
    return tuple(layers)


def stacked(layers: Sequence[Layer]) -> dict[str, Any]:
    """All layers as one: a key of a higher layer wins, a mapping over a mapping leaves alone what it does not name."""
    whole: dict[str, Any] = {}
    for layer in layers:
        whole = over(whole, layer.keys)
    return whole


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Keys over others, one level deep."""
    merged = dict(below)
    for key, value in above.items():
        there = merged.get(key)
        both = isinstance(there, Mapping) and isinstance(value, Mapping)
        merged[key] = {**there, **value} if both else value  # type: ignore[dict-item]
    return merged


def class_key(noun: str) -> str:
    """A class as it is compared: `Teddy  bear` is `teddy bear`."""
    return " ".join(noun.split()).casefold()


def idle_defaults(manifest: Manifest, subjects: Sequence[Subject]) -> Iterator[tuple[str, str]]:
    """Classes under `defaults` that no subject has, and what to say of each."""
    nouns = dict.fromkeys(" ".join((subject.class_noun or "").split()) for subject in subjects)
    keys = {class_key(noun) for noun in nouns}
    for written in manifest.defaults:
        if class_key(written) not in keys:
            there = ", ".join(noun for noun in nouns if noun) or "none"
            yield written, f"defaults.{written} is of no subject's class (they are {there}); correct or remove it"


def _opened(keys: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"preset": keys} if isinstance(keys, str) else keys
