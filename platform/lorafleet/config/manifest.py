"""The manifest: subjects, base, recipe, sweep, resources. Knows names and shapes; refuses to know files and models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from lorafleet.config.recipe import Recipe
from lorafleet.config.strict import Strict
from lorafleet.config.sweep import EarlyStop, GridSweep, Sweep
from lorafleet.config.wording import NAME_PATTERN

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
MAX_ADAPTERS = 4  # in one generation request


class SubjectSpec(Strict):
    """One subject, or with `glob` one subject for each matching folder."""

    name: Name | None = None
    """The subject's name; the folder's own name by default."""
    images: str | None = None
    """A folder, relative to the manifest."""
    glob: str | None = None
    """A pattern of folders, relative to the manifest; each becomes a subject named after it."""
    class_noun: Annotated[str | None, Field(alias="class", min_length=1, max_length=64)] = None
    """What the subject is: dog, mug, person. `check` asks for it where it is missing, or is a question mark."""
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
    """How many jobs run at once, and on what."""

    lanes: Annotated[int, Field(ge=1, le=512)] = 1
    """Lanes train side by side: each is a process that holds the base and trains one pack of jobs after another."""
    gpus_per_lane: Annotated[float, Field(ge=0, le=8)] | None = None
    """GPUs that each lane holds; by default 1 where the cluster has GPUs, else 0."""
    gpu_memory_gib: Annotated[float, Field(ge=1, le=1024)] | None = None
    """Memory of each GPU, for plans that are made where there is none; by default what the driver here says."""
    cpus_per_lane: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU cores that each lane holds and computes with."""
    pack: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    """How many jobs a lane trains at once; auto trains as many as fit into memory. Results do not depend on it."""
    exact: bool = False
    """Each job of a pack calls the base alone, so that no bit of its result depends on what else is trained. A pack is
    then hardly faster than one job after another. On a GPU deterministic kernels are used as well."""
    capture: bool = True
    """On a GPU, records the work of a training step as a CUDA graph and replays it, so that the card does not wait for
    Python. Switch it off if a driver or a library misbehaves with CUDA graphs."""
    compile: bool = False
    """Calls the UNet through torch.compile, always with the same batch size: jobs that join or leave a pack do not
    make it compile again."""
    max_running: Annotated[int, Field(ge=1, le=4096)] | None = None
    """At most this many jobs are trained at once, over all lanes; by default only lanes and packs bound it."""
    checkpoint_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """Seconds between a job's checkpoints, which an interruption can cost at most; one takes a fraction of a second."""
    stall_seconds: Annotated[float, Field(ge=5, le=86_400)] = 1800.0
    """A lane that makes no progress for this many seconds is ended; loading a base takes far less."""

    @model_validator(mode="after")
    def _exact_or_compiled(self) -> Resources:
        if self.exact and self.compile:
            raise ValueError(
                "exact and compile are both on; a compiled call is shared by several jobs, an exact one is one job's "
                "own. Leave one of them out"
            )
        return self


class Validation(Strict):
    """Pictures that are made during training, with fixed seeds, so that they can be compared."""

    prompts: tuple[Annotated[str, Field(min_length=1, max_length=400)], ...] = ()
    """Prompts of the pictures, in which `{class}` and `{name}` are the subject's; the instance prompt by default."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations; by default there are only those before the first step and after the last."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of all validation pictures, so that steps and jobs compare."""
    steps: Annotated[int, Field(ge=1, le=100)] | None = None
    """Denoising steps of a validation picture; the base's default if unset."""


def _web_address(url: str) -> str:
    if re.fullmatch(r"https?://[^\s/?#@]+([/?][^\s#]*)?", url) is None:
        raise ValueError("it must begin with http:// or https:// and have neither user and password nor a fragment")
    return url


class Notify(Strict):
    """Where a submission's result is posted as JSON when it has ended."""

    url: Annotated[str, AfterValidator(_web_address)]
    """An http or https address without a user and password."""
    secret_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = None
    """The environment variable, where the submission is driven, that holds the key of the signature."""


class Manifest(Strict):
    """A submission as its user writes it."""

    apiVersion: Literal["lorafleet/v1alpha1"] = "lorafleet/v1alpha1"  # noqa: N815  the field's name in the file
    """The version of this format."""
    name: Name
    """Of the experiment in MLflow; a submission's id begins with it."""
    base: Annotated[str, Field(min_length=1)] = "toy-playground"
    """The model that is adapted: toy-sdxl or toy-playground, which come with lorafleet; sdxl, playground-v2.5 or
    another hub id that was fetched; a name under which a base was added (`lorafleet bases add`); or a diffusers folder,
    relative to the manifest."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """How it is trained: a preset, and the keys that differ from it."""
    subjects: Annotated[tuple[SubjectSpec, ...], Field(min_length=1)]
    """What is learned: one adapter for each subject."""
    sweep: Sweep = GridSweep({})
    """Every subject is trained at every point."""
    early_stop: EarlyStop | None = None
    """Ends the points that score badly; by default all are trained to the end."""
    resources: Resources = Resources()
    """On what is trained, and how much at once."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Among submissions that share a cluster, those of higher priority get lanes first."""
    validation: Validation = Validation()
    """The pictures that are made during training."""
    notify: Notify | None = None
    """Whom to tell when the submission has ended."""

    @model_validator(mode="after")
    def _early_stop_has_a_sweep(self) -> Manifest:
        if self.early_stop is not None and self.sweep.count < 2:
            raise ValueError("early_stop compares the points of a sweep, and there is none; add sweep, or leave it out")
        return self


__all__ = ["Manifest", "Name", "Notify", "Recipe", "Resources", "SubjectSpec", "Validation"]
