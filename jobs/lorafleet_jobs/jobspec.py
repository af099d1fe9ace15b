"""What one job is: everything a lane needs to train one adapter, and nothing that depends on where it runs."""

from __future__ import annotations

from lorafleet.config import EarlyStop, Recipe, Validation
from lorafleet.config.promotion_policy import Promotion
from lorafleet.config.strict import Strict


class MaskSpec(Strict):
    """The mask of one training image."""

    file: str
    """Relative to the subject's folder."""
    sha256: str
    """Of the file's bytes."""


class ImageSpec(Strict):
    """One training image, its caption and its mask."""

    file: str
    """Relative to the subject's folder."""
    caption: str | None
    """None: the instance prompt."""
    sha256: str
    """Of the file's bytes."""
    mask: MaskSpec | None = None
    """None: all of the image counts."""


class Setting(Strict):
    """One key of a resolved recipe that somebody set, or that something stands in for."""

    key: str
    """An inner key as `outer.inner`."""
    value: str
    """As YAML."""
    origin: str
    """sweep, subject, defaults.CLASS, manifest or preset; for what stands in for an unset key `default` and of what."""

    @property
    def is_set(self) -> bool:
        """Whether somebody set it."""
        return not self.origin.startswith("default") or self.origin.startswith("defaults.")


CLASS_IMAGES_CARD = "images.json"
"""The file beside class images that a base made, which says which base that was."""


class ClassImages(Strict):
    """The folder of real class images that prior preservation shows beside the subject's."""

    folder: str
    """Absolute."""
    images: tuple[ImageSpec, ...]


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
    class_images: ClassImages | None = None
    """Of `recipe.prior`, where it names a folder."""
    class_noun: str
    instance_prompt: str
    """Holds the abstraction `TOK`."""
    recipe: Recipe
    """Fully resolved: no preset left to read."""
    steps: int
    validation: Validation
    early_stop: EarlyStop | None = None
    """When the job may have to end early; no part of its id, for what it trains is the same."""
    promotion: Promotion | None = "first"
    """Whether what comes out becomes champion; no part of the id. None: its submission settles that at its end."""
    dataset_fingerprint: str
    settings: tuple[Setting, ...] = ()
    """What a reviewer reads of the recipe; no part of the id."""
