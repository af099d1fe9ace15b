"""What one job is: everything a lane needs to train one adapter, and nothing that depends on where it runs."""

from __future__ import annotations

from lorafleet.config import Recipe, Validation
from lorafleet.config.strict import Strict


class ImageSpec(Strict):
    """One training image and its caption."""

    file: str
    """Relative to the subject's folder."""
    caption: str | None
    """None: the instance prompt."""
    sha256: str
    """Of the file's bytes."""


class JobSpec(Strict):
    """One training: a subject at one sweep point."""

    id: str
    """16 hex digits over everything below, the images' contents and the recipe."""
    submission: str
    subject: str
    adapter: str
    """The registered name of what comes out."""
    base: str
    folder: str
    """Absolute."""
    images: tuple[ImageSpec, ...]
    class_noun: str
    instance_prompt: str
    """Holds the abstraction `TOK`."""
    recipe: Recipe
    """Fully resolved: no preset left to read."""
    steps: int
    validation: Validation
    dataset_fingerprint: str
