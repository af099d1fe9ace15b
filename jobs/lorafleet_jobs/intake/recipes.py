"""From layers of keys and a sweep to whole recipes, one for each point, and every mistake in them.

The order of precedence: defaults of `Recipe` < preset < manifest < defaults of the class < subject < sweep. Refuses to
know bases and data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from lorafleet.config import Recipe
from lorafleet.config.places import KeyPath, Place, named
from lorafleet.config.settling import mentions, settle
from lorafleet.config.strict import Mistake, models_in
from lorafleet.config.sweep import GridSweep, Point, PointsSweep, Sweep, nested
from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.layers import MANIFEST, Layer, stacked
from lorafleet_jobs.intake.other_trainers import advice
from lorafleet_jobs.intake.presets import over_preset, preset_names

MAX_SWEEP_POINTS = 1000
RECIPE: KeyPath = ("recipe",)
NO_SWEEP = GridSweep({})
Raw = Callable[[KeyPath], str | None]


@dataclass(frozen=True)
class Written:
    """Where the keys of one point's recipe are written."""

    layers: tuple[Layer, ...]
    """The lowest first."""
    sweep: Sweep
    point: Point
    number: int
    raw_of: Raw | None = None

    def home(self, path: KeyPath) -> KeyPath:
        """The path in the manifest of what is at a path of the recipe."""
        if (key := self._swept(path)) is not None:
            return (*self.sweep_path(key), *path[len(key.split(".")) :])
        layer = self._layer(path)
        return (*(RECIPE if layer is None else layer.path), *path)

    def spelt(self, path: Sequence[int | str]) -> str:
        """A path of the recipe as messages have it."""
        swept = self._swept(tuple(path)) is not None
        return named(("sweep", *path) if swept else self.home(tuple(path)))

    def raw(self, path: KeyPath) -> str | None:
        """A value as it is written."""
        return self.raw_of(self.home(path)) if self.raw_of is not None else None

    def told(self, mistake: Mistake) -> Told:
        """A mistake of the whole recipe as one of the manifest."""
        if not mistake.path:
            return self.about(mistake.message)
        at_key = mistake.kind in ("unknown", "missing")
        inner = at_key and any(key.startswith(f"{mistake.path[0]}.") for key in self.point)  # it needs what is missing
        return self._at(mistake.path, (at_point(self.point) if inner else "") + mistake.message, at_key)

    def about(self, message: str) -> Told:
        """Something wrong with several keys: at the one it begins with, or else at the topmost of those it names."""
        first = re.match(r"recipe\.(\w+)(?:\.(\w+))?", message)
        if first is not None and (first[2] or self._rank((first[1],)) >= 0):
            path = tuple(part for part in first.groups() if part)
            return self._at(path, self.spelt(path) + message[first.end() :] if not self._swept(path) else message)
        keys: list[KeyPath] = [(key,) for key in Recipe.model_fields if mentions(message, key)]
        inner = [tuple(key.split(".")) for key in self.point if "." in key]
        inner += [(key, part) for layer in self.layers for key in layer.keys for part in _parts(layer.keys[key])]
        keys += [path for path in inner if mentions(message, path[1])]
        top: KeyPath = max(keys, key=self._rank, default=())
        return self._at(top if top and self._rank(top) >= 0 else (), message)

    def sweep_path(self, key: str) -> KeyPath:
        """The path in the manifest of the value that a key has at this point."""
        if isinstance(self.sweep, GridSweep):
            return ("sweep", key, self.sweep.root[key].index(self.point[key]))
        points = isinstance(self.sweep, PointsSweep)
        return ("sweep", "points", self.number, key) if points else ("sweep", "random", "space", key)

    def _at(self, path: KeyPath, message: str, at_key: bool = False) -> Told:
        layer = self._layer(path) if self._swept(path) is None else None
        return Told(self.home(path), message, at_key, layer.place if layer is not None else None)

    def _layer(self, path: KeyPath) -> Layer | None:
        return next((layer for layer in reversed(self.layers) if path and layer.says(path)), None)

    def _rank(self, path: KeyPath) -> int:
        """How high the key's layer is; the sweep's highest, -1 where nobody has written it."""
        ranks = [number for number, layer in enumerate(self.layers) if layer.says(path)]
        return len(self.layers) if self._swept(path) is not None else max(ranks, default=-1)

    def _swept(self, path: KeyPath) -> str | None:
        """The point's key that sets what is at a path."""
        names = [".".join(map(str, path[:length])) for length in (2, 1) if len(path) >= length]
        return next((name for name in names if name in self.point), None)


@dataclass(frozen=True)
class Told:
    """A mistake, and the path in the manifest of what is wrong."""

    path: KeyPath
    message: str
    at_key: bool = False
    """Whether the key is wrong, not its value."""
    place: Place | None = None
    """Where it is written, if not in the manifest."""


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep, and the recipe that it comes to."""

    point: Point
    """Its keys as written; empty without a sweep."""
    recipe: Recipe
    written: Written


@dataclass(frozen=True)
class Resolved:
    """What layers and a sweep come to."""

    layers: tuple[Layer, ...]
    """The lowest first."""
    points: tuple[SweepPoint, ...]
    """In order; those that come to the same recipe are one, those with a mistake are missing."""
    mistakes: tuple[Told, ...]

    @property
    def recipes(self) -> list[Recipe]:
        """Of the points."""
        return [one.recipe for one in self.points]

    def at_points(self, complaints: Callable[[Recipe], Iterable[str]]) -> list[Told]:
        """What `complaints` says of each point's recipe, where it is written."""
        told = [(one.point, one.written.about(said)) for one in self.points for said in complaints(one.recipe)]
        return _labelled(told, len(self.points))


def resolve(layers: Sequence[Layer], sweep: Sweep, toy: bool, raw: Raw | None = None) -> Resolved:
    """A whole recipe for each point of a sweep; without a sweep one in all. `raw` says how a value is written."""
    told, sound = [], []
    for layer in layers:
        wrong = list(_about_layer(layer))
        told += wrong
        bad = {one.path[-1] for one in wrong}
        sound.append(replace(layer, keys={key: value for key, value in layer.keys.items() if key not in bad}))
    told += (about_sweep := list(_about_sweep(sweep)))
    points: dict[str, SweepPoint] = {}
    at_points: list[tuple[Point, Told]] = []
    count = 0
    for number, point in enumerate(sweep.points() if not about_sweep else [{}]):
        written, count = Written(tuple(sound), sweep, point, number, raw), count + 1
        strange = dict(_about_point(written))
        at_points += [(point, one) for one in strange.values()]
        if strange:  # the rest is looked at all the same
            written = replace(written, point={key: value for key, value in point.items() if key not in strange})
        settled = settle(Recipe, _merged(written, toy), {}, raw=written.raw, spelt=written.spelt)
        at_points += [(point, written.told(mistake)) for mistake in settled.mistakes]
        if settled.model is not None and not settled.mistakes and not strange:
            points.setdefault(settled.model.model_dump_json(), SweepPoint(point, settled.model, written))
    return Resolved(tuple(layers), tuple(points.values()), (*told, *_labelled(at_points, count)))


def _labelled(told: Sequence[tuple[Point, Told]], count: int) -> list[Told]:
    """Mistakes of a sweep's `count` points, each once; those that are not of every point begin with theirs."""
    points: dict[Told, list[Point]] = {}
    for point, one in told:
        points.setdefault(one, []).append(point)
    return [
        one if len(at) == count or one.at_key else replace(one, message=at_point(at[0]) + one.message)
        for one, at in points.items()
    ]


def resolve_recipe(overrides: Mapping[str, Any], toy: bool, where: str = "recipe") -> Recipe:
    """The whole recipe: `overrides` over their preset's section for toy or real bases.

    `where` names the manifest in errors. Raises ManifestError with a line for each unknown key, value or preset.
    """
    resolved = resolve([Layer(MANIFEST, RECIPE, overrides)], NO_SWEEP, toy)
    if resolved.mistakes:
        raise ManifestError("\n".join(f"{where}: {' '.join(one.message.split(chr(10)))}" for one in resolved.mistakes))
    return resolved.points[0].recipe


def at_point(point: Mapping[str, Any]) -> str:
    """A sweep's point, as messages begin with it; "" without a sweep."""
    described = ", ".join(f"{key}: {'null' if value is None else value}" for key, value in point.items())
    return f"sweep point {{{described}}}: " if point else ""


def _parts(value: Any) -> Sequence[str]:
    return [str(key) for key in value] if isinstance(value, Mapping) else []


def _merged(written: Written, toy: bool) -> dict[str, Any]:
    whole = {key: value for key, value in written.point.items() if "." not in key}
    inner = nested({key: value for key, value in written.point.items() if "." in key})
    merged = over_preset({**stacked(written.layers), **whole}, toy)
    return merged | {key: {**_opened(merged.get(key)), **values} for key, values in inner.items()}


def _opened(value: Any) -> Mapping[str, Any]:
    """What a recipe says of a key with inner keys, its short forms (nothing, true, a sampler's name) written out."""
    if isinstance(value, Mapping):
        return value
    return {"name": value} if isinstance(value, str) else {}


def _about_layer(layer: Layer) -> Iterator[Told]:
    """Keys that no recipe has, and presets that there are not."""
    for key in layer.keys:
        if key not in Recipe.model_fields:
            yield Told((*layer.path, key), _about_key(key, named(layer.path)), True, layer.place)
    if "preset" in layer.keys and (message := _about_preset(layer.keys["preset"], named(layer.path))):
        yield Told((*layer.path, "preset"), message, place=layer.place)


def _about_preset(name: object, section: str) -> str | None:
    allowed = preset_names()
    if name in allowed:
        return None
    near = get_close_matches(name, allowed, n=1) if isinstance(name, str) else []
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{section}.preset is {name!r}; it must be one of {', '.join(allowed)}{hint}"


def _about_sweep(sweep: Sweep) -> Iterator[Told]:
    """What is wrong before any point is looked at."""
    for key, values in sweep.root.items() if isinstance(sweep, GridSweep) else ():
        if not values:
            yield Told(("sweep", key), f"sweep.{key} is []; give at least one value, or leave the key out")
    if sweep.count > MAX_SWEEP_POINTS:
        yield Told(("sweep",), f"sweep has {sweep.count} points; at most {MAX_SWEEP_POINTS} are allowed, so give fewer")


def _about_point(written: Written) -> Iterator[tuple[str, Told]]:
    """Keys of a point that no recipe has, or that say the same, and what is wrong with each."""
    point = written.point
    for key in point:
        name, dot, inner = key.partition(".")
        where = written.sweep_path(key)[:-1] if isinstance(written.sweep, GridSweep) else written.sweep_path(key)
        if name not in Recipe.model_fields:
            yield key, Told(where, _about_key(name, "sweep"), at_key=True)
        elif dot and name in point:
            message = f"sweep sets both {name} and {key} at one point; write one of them"
            yield key, Told(where, message, at_key=True)
        elif dot and (said := _about_inner(name, inner)) is not None:
            yield key, Told(where, f"unknown key 'sweep.{key}'; {said}", at_key=True)
    if "preset" in point and (said := _about_preset(point["preset"], "sweep")):
        yield "preset", Told(written.sweep_path("preset"), said)


def _about_inner(name: str, inner: str) -> str | None:
    allowed = sorted(part for model in models_in(Recipe.model_fields[name].annotation) for part in model.model_fields)
    if inner in allowed:
        return None
    near = get_close_matches(inner, allowed, n=1, cutoff=0.5)
    if near:
        return f"did you mean 'sweep.{name}.{near[0]}'?"
    return f"keys of {name} are {', '.join(allowed)}" if allowed else f"{name} has no inner keys; write sweep.{name}"


def _about_key(key: str, section: str) -> str:
    allowed = sorted(Recipe.model_fields)
    remedy = advice(key)
    if remedy is None:
        near = get_close_matches(key, allowed, n=1, cutoff=0.5)
        remedy = f"did you mean '{section}.{near[0]}'?" if near else f"known keys are {', '.join(allowed)}"
    return f"unknown key '{section}.{key}'; {remedy}"
