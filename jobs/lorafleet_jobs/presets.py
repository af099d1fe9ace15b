"""From a preset's name and a user's overrides to a whole recipe. Knows where presets lie; refuses to know what keys do.

A preset is a YAML file in `jobs/recipes/` with a section for the shipped toy bases and one for real ones. A user's keys
win over the preset's, the preset's over the defaults of `Recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lorafleet.config import Manifest, Recipe
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import ManifestError
from lorafleet_jobs.foreign import advice

DEFAULT = "object"
MAX_SWEEP_POINTS = 1000
_HERE = Path(__file__).parent
FOLDER = _HERE / "recipes" if (_HERE / "recipes").is_dir() else _HERE.parent / "recipes"


class _InRecipe(Strict):
    recipe: Recipe


class _InSweep(Strict):
    sweep: Recipe


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def resolve_recipe(overrides: Mapping[str, Any], toy: bool, where: str = "recipe") -> Recipe:
    """The whole recipe: `overrides` over their preset's section for toy or real bases.

    `where` names the manifest in errors. Raises ManifestError for an unknown key, value or preset.
    """
    _refuse_unknown(overrides, "recipe", where)
    return _parsed(overrides, {}, toy, where)


def resolve_sweep(manifest: Manifest, toy: bool, where: str) -> list[Recipe]:
    """One whole recipe for each sweep point, in the order written; one in all without a sweep.

    What is wrong is said of the key where it is written, or of the sweep point where keys disagree. Raises
    ManifestError for an unknown key, an empty list, or two points that come to the same recipe.
    """
    _refuse_unknown(manifest.recipe, "recipe", where)
    _refuse_unknown(manifest.sweep, "sweep", where)
    for key, values in manifest.sweep.items():
        if not values:
            raise ManifestError(f"{where}: 'sweep.{key}' is []; give at least one value, or leave the key out")
    count = prod(len(values) for values in manifest.sweep.values())
    if count > MAX_SWEEP_POINTS:
        raise ManifestError(f"{where}: 'sweep' has {count} points; at most {MAX_SWEEP_POINTS} are allowed")
    recipes: list[Recipe] = []
    for point in manifest.sweep_points():
        recipe = _parsed(manifest.recipe, point, toy, where)
        if recipe in recipes:
            raise ManifestError(f"{where}: 'sweep' comes to the same recipe twice, again at {point}; leave one out")
        recipes.append(recipe)
    return recipes


def preset_section(name: str, toy: bool) -> dict[str, Any]:
    """What a preset that exists says for toy or real bases."""
    sections = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return dict(sections.get("toy" if toy else "real") or {})


def at_point(where: str, point: Mapping[str, Any]) -> str:
    """`where`, and in a sweep the point, as errors name it."""
    said = ", ".join(f"{key}: {'null' if value is None else value}" for key, value in point.items())
    return f"{where}: sweep point {{{said}}}" if point else where


def _parsed(overrides: Mapping[str, Any], point: Mapping[str, Any], toy: bool, where: str) -> Recipe:
    merged = _merged({**overrides, **point}, toy, where)
    try:
        return Recipe.model_validate(merged)
    except ValidationError as problem:
        loc = problem.errors(include_url=False)[0]["loc"]
    if not loc:
        return parse(_InRecipe, {"recipe": merged}, at_point(where, point)).recipe  # raises
    if loc[0] in point:
        return parse(_InSweep, {"sweep": merged}, where).sweep  # raises
    return parse(_InRecipe, {"recipe": merged}, where).recipe  # raises


def _merged(overrides: Mapping[str, Any], toy: bool, where: str) -> dict[str, Any]:
    name, known = overrides.get("preset", DEFAULT), preset_names()
    if name not in known:
        raise ManifestError(f"{where}: 'recipe.preset' is {name!r}; known presets are {', '.join(known)}")
    merged = preset_section(name, toy) | {"preset": name}
    for key, value in overrides.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        merged[key] = {**below, **value} if both else value  # type: ignore[dict-item]
    return merged


def _refuse_unknown(keys: Mapping[str, Any], section: str, where: str) -> None:
    known = sorted(Recipe.model_fields)
    for key in keys:
        if key in known:
            continue
        remedy = advice(key)
        if remedy is None:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            remedy = f"did you mean '{section}.{near[0]}'?" if near else f"known keys are {', '.join(known)}"
        raise ManifestError(f"{where}: unknown key '{section}.{key}'; {remedy}")
