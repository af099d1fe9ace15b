"""Presets: YAML files in `jobs/recipes/`, with a section for the shipped toy bases and one for real ones.

Knows where presets lie and what a recipe written over one comes to; refuses to know what keys do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lorafleet.config import Recipe
from lorafleet_jobs.intake.layers import over

DEFAULT = "object"
OF_AN_OPTIMIZER = ("optimizer_options", "learning_rate", "text_encoder_learning_rate", "token_learning_rate")
"""Keys whose values mean something else with another optimizer."""
_HERE = Path(__file__).parents[1]
FOLDER = _HERE / "recipes" if (_HERE / "recipes").is_dir() else _HERE.parent / "recipes"


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def preset_section(name: str, toy: bool, optimizer: object = None) -> dict[str, Any]:
    """What a preset that exists says for toy or real bases; for another optimizer than its own without its rates."""
    sections = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    section = dict(sections.get("toy" if toy else "real") or {})
    if optimizer in (None, section.get("optimizer", Recipe.model_fields["optimizer"].default)):
        return section
    return {key: value for key, value in section.items() if key not in OF_AN_OPTIMIZER}


def over_preset(keys: Mapping[str, Any], toy: bool) -> dict[str, Any]:
    """A recipe's keys over those of its preset, which exists."""
    name = keys.get("preset", DEFAULT)
    return over(preset_section(name, toy, keys.get("optimizer")), {"preset": name, **keys})
