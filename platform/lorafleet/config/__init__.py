"""What a user writes: manifests and recipes. Imports neither torch nor ray, so that reading them is instant."""

from pathlib import Path

from lorafleet.config.manifest import Manifest, Resources, SubjectSpec, Validation
from lorafleet.config.parts import PivotalSpec
from lorafleet.config.recipe import Recipe
from lorafleet.config.sweep import EarlyStop

SCHEMA_FILE = Path(__file__).with_name("manifest.schema.json")
"""The JSON schema of a manifest, for editors; made by `tools/manifest_reference.py`."""

__all__ = ["SCHEMA_FILE", "EarlyStop", "Manifest", "PivotalSpec", "Recipe", "Resources", "SubjectSpec", "Validation"]
