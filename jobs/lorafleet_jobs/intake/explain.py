"""A resolved recipe as people read it: every key that matters, and where its value came from.

Knows the defaults that depend on the base or the optimizer, as the trainer fills them in. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet.config.sweep import nested
from lorafleet.numerics.edm import P_STD, latent_side, mean_ln_sigma
from lorafleet_jobs.intake.layers import MANIFEST, Layer
from lorafleet_jobs.intake.presets import preset_section
from lorafleet_jobs.intake.recipes import SweepPoint
from lorafleet_jobs.jobspec import Setting

ALWAYS = ("preset", "steps", "rank", "targets", "optimizer", "lr_scheduler", "batch_size", "precision", "seed")
"""Shown even where nobody set them."""
Origin = str
"""sweep, subject, defaults.CLASS, manifest, preset or default; for a default that depends on something, on what."""


@dataclass(frozen=True)
class RecipeLine:
    """One key of a resolved recipe."""

    key: str
    value: Any
    origin: Origin

    @property
    def yaml(self) -> str:
        """As it can be written into a manifest."""
        return f"{self.key}: {as_yaml(self.value)}"


@dataclass(frozen=True)
class ResolvedRecipe:
    """A whole recipe with what it was made of."""

    recipe: Recipe
    written: Mapping[str, Any]
    """The manifest's `recipe`."""
    point: Mapping[str, Any]
    """Of the sweep; empty without one."""
    base: Base
    above: Sequence[Layer] = ()
    """What stands over the manifest's `recipe`, the lowest first: of the class, and of the subject."""

    @classmethod
    def of(cls, one: SweepPoint, base: Base) -> ResolvedRecipe:
        """The recipe of a sweep point, with the layers it was made of."""
        manifest, *above = one.written.layers
        return cls(one.recipe, manifest.keys, nested(one.point), base, tuple(above))

    def origins(self) -> dict[str, Origin]:
        """Who set each key, the inner keys of a mapping by `outer.inner`."""
        values: dict[str, Origin] = {}
        for key, value in self.recipe.model_dump(mode="json").items():
            if isinstance(value, dict):
                values |= {f"{key}.{inner}": self._origin(key, inner) for inner in value}
            else:
                values[key] = self._origin(key)
        return values

    def lines(self) -> list[RecipeLine]:
        """What somebody set, what always matters, and what stands in for unset keys, in the recipe's order."""
        origins, filled = self.origins(), self._filled_in()
        lines = []
        for key, value in self.recipe.model_dump(mode="json").items():
            if key in filled:
                lines.append(RecipeLine(key, *filled[key]))
                continue
            if isinstance(value, dict):
                names = {inner: origins[f"{key}.{inner}"] for inner, part in value.items() if part is not None}
                value = {inner: value[inner] for inner, origin in names.items() if origin != "default"}
                who = [origin for origin, _ in self._layers if origin in names.values()]
            else:
                who = [origins[key]] if origins[key] != "default" else []
            if who or key in ALWAYS:
                lines.append(RecipeLine(key, value, ", ".join(who) or "default"))
        return lines

    def settings(self) -> tuple[Setting, ...]:
        """What somebody set, flat, and what stands in for unset keys; both resolved."""
        filled, values = self._filled_in(), _flat(self.recipe.model_dump(mode="json"))
        said = {key: origin for key, origin in self.origins().items() if origin != "default"}
        said |= {key: origin for key, (_, origin) in filled.items() if key not in said}
        values |= {key: value for key, (value, _) in filled.items()}
        return tuple(Setting(key=key, value=as_yaml(values[key]), origin=origin) for key, origin in said.items())

    def as_json(self) -> dict[str, Any]:
        """Every key's value, who set it, and what stands in for unset keys."""
        filled = {key: value for key, (value, _) in self._filled_in().items()}
        return {"values": self.recipe.model_dump(mode="json"), "origins": self.origins(), "filled_in": filled}

    def _origin(self, key: str, inner: str | None = None) -> Origin:
        """The topmost layer that has the key; a mapping over a mapping leaves alone what it does not name."""
        for origin, layer in self._layers:
            if key in layer and (inner is None or not isinstance(layer[key], Mapping) or inner in layer[key]):
                return origin
        return "default"

    @cached_property
    def _layers(self) -> list[tuple[Origin, Mapping[str, Any]]]:
        """Who says what, the topmost first."""
        section = preset_section(self.recipe.preset, self.base.is_toy, self.recipe.optimizer)
        above = [(layer.origin, layer.keys) for layer in reversed(self.above)]
        return [("sweep", self.point), *above, (MANIFEST, self.written), ("preset", section)]

    def _filled_in(self) -> dict[str, tuple[Any, Origin]]:
        """What the trainer takes for unset keys that depend on something else."""
        recipe, base = self.recipe, self.base
        name = f"default of {recipe.optimizer}"
        values: dict[str, tuple[Any, Origin]] = {}
        if recipe.alpha is None and (recipe.trains_unet or recipe.text_encoder_lora is not None):
            values["alpha"] = (recipe.rank, "default, the rank")
        if recipe.learning_rate is None:
            values["learning_rate"] = (recipe.rate_of("unet"), name)
        if recipe.text_encoder_learning_rate is None and recipe.text_encoder_lora is not None:
            values["text_encoder_learning_rate"] = (recipe.rate_of("text"), "default, as learning_rate")
        if recipe.token_learning_rate is None and recipe.pivotal is not None and recipe.optimizer != "prodigy":
            values["token_learning_rate"] = (recipe.rate_of("tokens"), "default, three times learning_rate")
        if recipe.resolution is None:
            values["resolution"] = (base.resolution, f"default of {base.name}")
        return values | self._levels()

    def _levels(self) -> dict[str, tuple[Any, Origin]]:
        """The noise levels, where they depend on the latent's side."""
        wanted, side = self.recipe.sigma_sampler, latent_side(self.base, self.recipe)
        if wanted is None and self.base.prediction != "edm":
            return {}
        if wanted is not None and (wanted.name != "lognormal" or wanted.P_mean is not None):
            return {}
        levels = {
            "name": "lognormal",
            "P_mean": mean_ln_sigma(side),
            "P_std": P_STD if wanted is None else wanted.P_std,
        }
        who = "default" if wanted is None else f"{self._origin('sigma_sampler', 'name')}, default"
        return {"sigma_sampler": (levels, f"{who} for latents of side {side:g}")}


def as_yaml(value: Any) -> str:
    """A value on one line of YAML."""
    short = float(f"{value:.6g}") if isinstance(value, float) else value  # 3e-4, not 3.0000...3e-4
    dumped: str = yaml.safe_dump(short, default_flow_style=True, width=10**6, sort_keys=False)
    return dumped.rstrip().removesuffix("...").rstrip()  # with which YAML marks the end of a plain value


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Inner keys as `outer.inner`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{inner}": part for inner, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat
