"""The manifest: subjects, base, recipe, sweep, resources. Knows names and shapes; refuses to know files and models."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from lorafleet.config.recipe import Recipe
from lorafleet.config.strict import Strict

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
MAX_ADAPTERS = 4  # in one generation request


class SubjectSpec(Strict):
    """One subject, or with `glob` one subject a matching folder."""

    name: Name | None = None
    """Of the subject; the folder's own name by default."""
    images: str | None = None
    """A folder, relative to the manifest."""
    glob: str | None = None
    """A pattern of folders, relative to the manifest; each becomes a subject named after it."""
    class_noun: Annotated[str | None, Field(alias="class", min_length=1, max_length=64)] = None
    """What the subject is: dog, mug, person. A subject without one is a finding of `check`."""
    instance_prompt: Annotated[str, Field(max_length=400)] | None = None
    """"a photo of TOK <class>" by default."""
    caption_column: str = "prompt"
    """The caption's key in metadata.jsonl or metadata.csv."""

    @model_validator(mode="after")
    def _one_source(self) -> SubjectSpec:
        if (self.images is None) == (self.glob is None):
            raise ValueError("give either images (one folder) or glob (one subject a folder)")
        if self.glob is not None and self.name is not None:
            raise ValueError("subjects of a glob are named after their folders; leave name out")
        return self


class Resources(Strict):
    """How much runs at once."""

    lanes: Annotated[int, Field(ge=1, le=512)] = 1
    gpus_per_lane: Annotated[float, Field(ge=0, le=8)] | None = None
    """By default 1 where the cluster has GPUs, else 0."""
    cpus_per_lane: Annotated[int, Field(ge=1, le=256)] = 1
    pack: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    """How many jobs a lane trains at once; auto is as many as memory has room for. Results do not depend on it."""


class Validation(Strict):
    """Pictures made on the way, with fixed seeds, so that they compare."""

    prompts: tuple[Annotated[str, Field(min_length=1, max_length=400)], ...] = ()
    """By default the instance prompt."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Steps between grids; by default only the first (the base) and the last."""
    seed: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    """Denoising steps of a validation picture; the base's default if unset."""


class Manifest(Strict):
    """A submission as its user writes it."""

    apiVersion: Literal["lorafleet/v1alpha1"] = "lorafleet/v1alpha1"  # noqa: N815  the field's name in the file
    name: Name
    base: Annotated[str, Field(min_length=1)] = "toy-playground"
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Recipe keys over the preset's; resolved by `lorafleet.config.presets`."""
    subjects: Annotated[tuple[SubjectSpec, ...], Field(min_length=1)]
    sweep: dict[str, list[Any]] = Field(default_factory=dict)
    resources: Resources = Resources()
    validation: Validation = Validation()

    def sweep_points(self) -> list[dict[str, Any]]:
        """Every combination of the sweep's values, in the order written; one empty point without a sweep."""
        return [dict(zip(self.sweep, values, strict=True)) for values in product(*self.sweep.values())]


__all__ = ["Manifest", "Name", "Recipe", "Resources", "SubjectSpec", "Validation"]
