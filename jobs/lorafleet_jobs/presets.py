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

from lorafleet.config import Manifest, Recipe
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import ManifestError

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
    return parse(_InRecipe, {"recipe": _merged(overrides, toy, where)}, where).recipe


def resolve_sweep(manifest: Manifest, toy: bool, where: str) -> list[Recipe]:
    """One whole recipe for each sweep point, in the order written; one in all without a sweep.

    Raises ManifestError for an unknown key, an empty list, or two points that come to the same recipe.
    """
    plain = resolve_recipe(manifest.recipe, toy, where)
    if not manifest.sweep:
        return [plain]
    _refuse_unknown(manifest.sweep, "sweep", where)
    for key, values in manifest.sweep.items():
        if not values:
            raise ManifestError(f"{where}: 'sweep.{key}' is []; give at least one value, or leave the key out")
    count = prod(len(values) for values in manifest.sweep.values())
    if count > MAX_SWEEP_POINTS:
        raise ManifestError(f"{where}: 'sweep' has {count} points; at most {MAX_SWEEP_POINTS} are allowed")
    recipes: list[Recipe] = []
    for point in manifest.sweep_points():
        merged = _merged({**manifest.recipe, **point}, toy, where)
        recipe = parse(_InSweep, {"sweep": merged}, where).sweep
        if recipe in recipes:
            raise ManifestError(f"{where}: 'sweep' comes to the same recipe twice, again at {point}; leave one out")
        recipes.append(recipe)
    return recipes


def _merged(overrides: Mapping[str, Any], toy: bool, where: str) -> dict[str, Any]:
    merged = _preset(overrides.get("preset", "object"), where)["toy" if toy else "real"]
    for key, value in overrides.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, Mapping)
        merged[key] = {**below, **value} if both else value  # type: ignore[dict-item]
    return merged


def _preset(name: object, where: str) -> dict[str, dict[str, Any]]:
    known = preset_names()
    if name not in known:
        raise ManifestError(f"{where}: 'recipe.preset' is {name!r}; known presets are {', '.join(known)}")
    sections = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return {section: dict(sections.get(section) or {}) | {"preset": name} for section in ("toy", "real")}


def _refuse_unknown(keys: Mapping[str, Any], section: str, where: str) -> None:
    known = sorted(Recipe.model_fields)
    for key in keys:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            remedy = f"did you mean '{section}.{near[0]}'?" if near else f"known keys are {', '.join(known)}"
            raise ManifestError(f"{where}: unknown key '{section}.{key}'; {remedy}")
