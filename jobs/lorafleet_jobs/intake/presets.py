"""From a preset's name and a user's overrides to a whole recipe. Knows where presets lie; refuses to know what keys do.

A preset is a YAML file in `jobs/recipes/` with a section for the shipped toy bases and one for real ones. A user's keys
win over the preset's, the preset's over the defaults of `Recipe`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lorafleet.config import Manifest, Recipe
from lorafleet.config.strict import Strict, models_in, parse
from lorafleet.config.sweep import GridSweep, Point, Sweep, nested
from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.other_trainers import advice

DEFAULT = "object"
MAX_SWEEP_POINTS = 1000
OF_AN_OPTIMIZER = ("optimizer_options", "learning_rate", "text_encoder_learning_rate", "token_learning_rate")
"""Keys whose values mean something else with another optimizer."""
_HERE = Path(__file__).parents[1]
FOLDER = _HERE / "recipes" if (_HERE / "recipes").is_dir() else _HERE.parent / "recipes"


class _InRecipe(Strict):
    recipe: Recipe


class _InSweep(Strict):
    sweep: Recipe


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep, and the recipe that it comes to."""

    point: Point
    """Its keys as written; empty without a sweep."""
    recipe: Recipe


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def resolve_recipe(overrides: Mapping[str, Any], toy: bool, where: str = "recipe") -> Recipe:
    """The whole recipe: `overrides` over their preset's section for toy or real bases.

    `where` names the manifest in errors. Raises ManifestError for an unknown key, value or preset.
    """
    _refuse_unknown(overrides, "recipe", where)
    return _parsed(overrides, {}, toy, where)


def resolve_points(manifest: Manifest, toy: bool, where: str) -> list[SweepPoint]:
    """The points of a sweep with a whole recipe each, in order; without a sweep one in all.

    Points that come to the same recipe are one. What is wrong is said of the sweep point and the key. Raises
    ManifestError for an unknown key, an empty list, or a point that is no recipe.
    """
    _refuse_unknown(manifest.recipe, "recipe", where)
    _refuse_sweep(manifest.sweep, where)
    points: dict[str, SweepPoint] = {}
    for point in manifest.sweep.points():
        _refuse_point(point, where)
        recipe = _parsed(manifest.recipe, point, toy, where)
        points.setdefault(recipe.model_dump_json(), SweepPoint(point, recipe))
    return list(points.values())


def preset_section(name: str, toy: bool, optimizer: object = None) -> dict[str, Any]:
    """What a preset that exists says for toy or real bases; for another optimizer than its own without its rates."""
    sections = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    section = dict(sections.get("toy" if toy else "real") or {})
    if optimizer in (None, section.get("optimizer", Recipe.model_fields["optimizer"].default)):
        return section
    return {key: value for key, value in section.items() if key not in OF_AN_OPTIMIZER}


def at_point(where: str, point: Mapping[str, Any]) -> str:
    """`where`, and in a sweep the point, as errors name it."""
    described = ", ".join(f"{key}: {'null' if value is None else value}" for key, value in point.items())
    return f"{where}: sweep point {{{described}}}" if point else where


def _parsed(overrides: Mapping[str, Any], point: Point, toy: bool, where: str) -> Recipe:
    whole = {key: value for key, value in point.items() if "." not in key}
    inner = nested({key: value for key, value in point.items() if "." in key})
    merged = _merged({**overrides, **whole}, toy, where)
    merged |= {key: {**_opened(merged.get(key)), **values} for key, values in inner.items()}
    try:
        return Recipe.model_validate(merged)
    except ValidationError as problem:
        loc = ".".join(map(str, problem.errors(include_url=False)[0]["loc"]))
    if any(f"{loc}.".startswith(f"{key}.") or key.startswith(f"{loc}.") for key in point):
        return parse(_InSweep, {"sweep": merged}, at_point(where, point)).sweep  # raises
    partly = not loc or loc.partition(".")[0] in inner  # keys disagree, or an inner key leaves another to the recipe
    return parse(_InRecipe, {"recipe": merged}, at_point(where, point) if partly else where).recipe  # raises


def _opened(value: Any) -> Mapping[str, Any]:
    """What a recipe says of a key with inner keys, its short forms (nothing, true, a sampler's name) written out."""
    if isinstance(value, Mapping):
        return value
    return {"name": value} if isinstance(value, str) else {}


def _merged(overrides: Mapping[str, Any], toy: bool, where: str) -> dict[str, Any]:
    name, allowed = overrides.get("preset", DEFAULT), preset_names()
    if name not in allowed:
        raise ManifestError(f"{where}: 'recipe.preset' is {name!r}; known presets are {', '.join(allowed)}")
    merged = preset_section(name, toy, overrides.get("optimizer")) | {"preset": name}
    for key, value in overrides.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        merged[key] = {**below, **value} if both else value  # type: ignore[dict-item]
    return merged


def _refuse_sweep(sweep: Sweep, where: str) -> None:
    """What is wrong before any point is looked at."""
    for key, values in sweep.root.items() if isinstance(sweep, GridSweep) else ():
        if not values:
            raise ManifestError(f"{where}: 'sweep.{key}' is []; give at least one value, or leave the key out")
    if sweep.count > MAX_SWEEP_POINTS:
        raise ManifestError(f"{where}: 'sweep' has {sweep.count} points; at most {MAX_SWEEP_POINTS} are allowed")


def _refuse_point(point: Point, where: str) -> None:
    outer = {key.partition(".")[0]: key for key in point if "." in key}
    _refuse_unknown([key for key in point if "." not in key] + list(outer), "sweep", where)
    for key in point:
        name, dot, inner = key.partition(".")
        if not dot:
            continue
        if name in point:
            raise ManifestError(f"{where}: 'sweep' sets both {name} and {key} at one point; write one of them")
        allowed = sorted(
            part for model in models_in(Recipe.model_fields[name].annotation) for part in model.model_fields
        )
        if inner not in allowed:
            near = get_close_matches(inner, allowed, n=1, cutoff=0.5)
            remedy = f"did you mean 'sweep.{name}.{near[0]}'?" if near else _known_inner(name, allowed)
            raise ManifestError(f"{where}: unknown key 'sweep.{key}'; {remedy}")


def _known_inner(name: str, allowed: list[str]) -> str:
    return f"keys of {name} are {', '.join(allowed)}" if allowed else f"{name} has no inner keys; write sweep.{name}"


def _refuse_unknown(keys: Iterable[str], section: str, where: str) -> None:
    allowed = sorted(Recipe.model_fields)
    for key in keys:
        if key in allowed:
            continue
        remedy = advice(key)
        if remedy is None:
            near = get_close_matches(key, allowed, n=1, cutoff=0.5)
            remedy = f"did you mean '{section}.{near[0]}'?" if near else f"known keys are {', '.join(allowed)}"
        raise ManifestError(f"{where}: unknown key '{section}.{key}'; {remedy}")
