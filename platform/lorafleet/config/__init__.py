"""What a user writes: manifests and recipes. Imports neither torch nor ray, so that reading them is instant."""

from lorafleet.config.manifest import Manifest, Resources, SubjectSpec, Validation
from lorafleet.config.parts import PivotalSpec
from lorafleet.config.recipe import Recipe
from lorafleet.config.sweep import EarlyStop

__all__ = ["EarlyStop", "Manifest", "PivotalSpec", "Recipe", "Resources", "SubjectSpec", "Validation"]
