"""A manifest of a recipe and a sweep, and the recipes that it comes to."""

from lorafleet.config import Manifest, Recipe
from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.layers import layers_of
from lorafleet_jobs.intake.recipes import SweepPoint, resolve


def manifest(recipe: dict[str, object] | None = None, sweep: dict[str, object] | None = None) -> Manifest:
    return Manifest.model_validate(
        {"name": "m", "subjects": [{"images": "a"}], "recipe": recipe or {}, "sweep": sweep or {}}
    )


def resolve_points(manifest: Manifest, toy: bool = True) -> tuple[SweepPoint, ...]:
    resolved = resolve(layers_of(manifest), manifest.sweep, toy)
    if resolved.mistakes:
        raise ManifestError("\n".join(one.message for one in resolved.mistakes))
    return resolved.points


def resolve_sweep(manifest: Manifest, toy: bool = True) -> list[Recipe]:
    return [one.recipe for one in resolve_points(manifest, toy)]
