"""What tells recipes apart, in a few words: `rank 16 lr 1e-4`. Knows recipes, and no sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHORT = {
    "learning_rate": "lr", "text_encoder_learning_rate": "text lr", "token_learning_rate": "token lr",
    "gradient_accumulation": "accumulation", "gradient_checkpointing": "checkpointing", "lr_scheduler": "schedule",
}  # fmt: skip
"""Keys of a recipe as a label has them, where that is shorter."""
ID_DIGITS = 6
"""Of an id, where nothing else tells two jobs apart."""


def name_points(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """For each job's id what its recipe has that the others' have not; "" where there is no other.

    `recipes` are in JSON's types, with the number of steps under `steps`.
    """
    if len(recipes) == 1:
        return dict.fromkeys(recipes, "")
    flat = {id_: _flat(recipe) for id_, recipe in recipes.items()}
    keys = list(dict.fromkeys(key for recipe in flat.values() for key in recipe))
    varied = [key for key in keys if len({repr(recipe.get(key)) for recipe in flat.values()}) > 1]
    if "preset" in varied:
        varied = _telling(varied, list(flat.values()))
    names = {
        id_: " ".join(f"{SHORT.get(key, key)} {_shown(recipe[key])}" for key in varied if key in recipe)
        for id_, recipe in flat.items()
    }
    said = list(names.values())
    return {
        id_: name if name and said.count(name) == 1 else f"{name} {id_[:ID_DIGITS]}".strip()
        for id_, name in names.items()
    }


def _telling(varied: Sequence[str], recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of the keys that tell more apart than the preset, and the keys before, do: a preset changes many."""
    chosen: list[str] = []
    kinds = 1
    for key in ["preset", *(key for key in varied if key != "preset")]:
        found = len({repr([recipe.get(one) for one in (*chosen, key)]) for recipe in recipes})
        if found > kinds:
            chosen, kinds = [*chosen, key], found
    return chosen


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Inner keys as `outer.inner`."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= {f"{key}.{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _shown(value: object) -> str:
    """A value in a few characters: 1e-4, on, null."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        mantissa, e, exponent = f"{value:.4g}".partition("e")
        if not e and 0 < abs(value) < 0.01:
            mantissa, e, exponent = f"{value:e}".partition("e")
            mantissa = f"{float(mantissa):.4g}"
        return f"{mantissa}e{int(exponent)}" if e else mantissa
    return "null" if value is None else str(value)
