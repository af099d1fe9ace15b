"""What a user writes: manifests and recipes. Imports neither torch nor ray, so that reading them is instant."""

from lorafleet.config.manifest import Manifest, Resources, SubjectSpec, Validation
from lorafleet.config.recipe import PivotalSpec, Recipe

__all__ = ["Manifest", "PivotalSpec", "Recipe", "Resources", "SubjectSpec", "Validation"]
