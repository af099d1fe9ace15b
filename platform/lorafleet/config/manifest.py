"""The manifest: subjects, base, recipe, sweep, resources. Knows names and shapes; refuses to know files and models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from lorafleet.config.promotion_policy import Promotion
from lorafleet.config.recipe import Recipe
from lorafleet.config.strict import Strict
from lorafleet.config.sweep import EarlyStop, GridSweep, Sweep
from lorafleet.config.wording import ENVIRONMENT_PATTERN, NAME_PATTERN

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
PartialRecipe = str | dict[str, Any]
"""A preset's name, or the keys that differ; what stands below shows through."""
NAME_PART = re.compile(r"(?<!\$)\{(class|name)\}")
"""A part of a folder's name, in a glob."""
MAX_ADAPTERS = 4  # in one generation request


class SubjectSpec(Strict):
    """One subject; with `glob` one for each matching folder, with `from` one for each row of a table."""

    name: Name | None = None
    """The subject's name; the folder's own name by default."""
    images: str | None = None
    """A folder or a zip file, relative to the manifest; or the address of one, s3://, gs:// or hf://. A zip file is
    unpacked and an address is fetched once, into the home."""
    glob: str | None = None
    """A pattern of folders, relative to the manifest; each becomes a subject named after it. `{class}` and `{name}` in
    it are parts of a folder's name: photos/{class}-{name} makes a dog called rex of photos/dog-rex."""
    table: Annotated[str | None, Field(alias="from", min_length=1)] = None
    """A table of subjects, CSV or TSV, relative to the manifest. Its columns are images (or path, or folder) and class,
    and if wanted name, instance_prompt, caption_column and preset; what a row leaves empty is as this entry says."""
    class_noun: Annotated[str | None, Field(alias="class", min_length=1, max_length=64)] = None
    """What the subject is: dog, mug, person. `check` asks for it where it is missing, or is a question mark."""
    instance_prompt: Annotated[str, Field(max_length=400)] | None = None
    """"a photo of TOK <class>" by default."""
    caption_column: str = "prompt"
    """The caption's key in metadata.jsonl or metadata.csv."""
    recipe: PartialRecipe | None = None
    """What is other for this subject than in `recipe` and `defaults`: a preset's name, or keys of a recipe."""

    @model_validator(mode="after")
    def _one_source(self) -> SubjectSpec:
        if sum(source is not None for source in (self.images, self.glob, self.table)) != 1:
            raise ValueError("give one of images (one folder), glob (a subject for each folder) and from (a table)")
        if self.glob is not None and self.name is not None:
            raise ValueError("subjects of a glob are named after their folders; leave name out")
        if self.table is not None and self.name is not None:
            raise ValueError("subjects of a table are named in it; leave name out")
        return self

    @model_validator(mode="after")
    def _parts_of_names(self) -> SubjectSpec:
        parts = NAME_PART.findall(self.glob or "")
        if parts and "**" in (self.glob or ""):
            raise ValueError(f"glob holds both ** and {{{parts[0]}}}; write a * for each folder in the place of **")
        if twice := next((part for part in parts if parts.count(part) > 1), None):
            raise ValueError(f"glob holds {{{twice}}} twice; write * in the place of one of them")
        if "class" in parts and self.class_noun is not None:
            raise ValueError("class is given, and glob takes it from the folders' names by {class}; leave one of them")
        return self


class Resources(Strict):
    """How many jobs run at once, and on what."""

    lanes: Annotated[int, Field(ge=1, le=512)] = 1
    """Lanes train side by side: each is a process that holds the base and trains one pack of jobs after another."""
    gpus_per_lane: Annotated[float, Field(ge=0, le=8)] | None = None
    """GPUs that each lane holds; by default 1 where the cluster has GPUs, else 0."""
    gpu_memory_gib: Annotated[float, Field(ge=1, le=1024)] | None = None
    """Memory of each GPU, for plans that are made where there is none; by default what the driver here says."""
    price_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    """What an hour of one GPU costs, in any currency: `plan` then says what the submission costs."""
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


WebAddress = Annotated[str, AfterValidator(_web_address)]
"""An http or https address without a user and password."""


class Notify(Strict):
    """Where a submission's result is posted as JSON when it has ended."""

    url: WebAddress
    """An http or https address without a user and password."""
    secret_env: Annotated[str, StringConstraints(pattern=ENVIRONMENT_PATTERN)] | None = None
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
    defaults: dict[str, PartialRecipe] = Field(default_factory=dict)
    """What is other for the subjects of a class than in `recipe`: by class a preset's name, or keys of a recipe."""
    subjects: Annotated[tuple[SubjectSpec, ...], Field(min_length=1)]
    """What is learned: one adapter for each subject. A list, or `from` with the table that lists them."""
    sweep: Sweep = GridSweep({})
    """Every subject is trained at every point."""
    early_stop: EarlyStop | None = None
    """Ends the points that score badly; by default all are trained to the end."""
    resources: Resources = Resources()
    """On what is trained, and how much at once."""
    promotion: Promotion = "first"
    """Which new versions become champions, the versions that are used where none is named: `first`, those of names that
    have none; `best`, also those of higher scores; `manual`, none; `always`, all. Of a sweep at most its best point,
    and never over a version that a person has chosen. One that has learned nothing visible takes no champion's place,
    and where there is none becomes it under `always` alone. The others are `challenger`."""
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
