"""What the MLflow run of a job says about it: a name, the few settings that somebody chose, and the whole recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from lorafleet_jobs.jobqueue.job_state import JobRow, trained_spec
from lorafleet_jobs.jobspec import JobSpec

if TYPE_CHECKING:
    from lorafleet.tracking import JobInfo


def job_info(job: JobRow, label: str) -> JobInfo:
    """What its run says of a job that people call `label`, as `rex rank 16`."""
    from lorafleet.tracking import JobInfo

    spec = trained_spec(job)
    return JobInfo(
        name=label + (f" seed {spec.recipe.seed}" if job.seed_shift else ""),
        job_id=spec.id,
        subject=spec.subject,
        adapter=spec.adapter,
        params=parameters(spec, always=("seed",) if job.seed_shift else ()),
        recipe_yaml=recipe_yaml(spec),
        folder=spec.folder,
        images=len(spec.images),
        dataset_fingerprint=spec.dataset_fingerprint,
    )


def parameters(spec: JobSpec, always: tuple[str, ...] = ()) -> dict[str, str]:
    """The base, the preset, the steps, and what else somebody set of the recipe, resolved; the keys `always` too.

    Few on purpose: MLflow prints a run's parameters above each of its pictures.
    """
    recipe = spec.recipe.model_dump(mode="json")
    chosen = {one.key: one.value for one in spec.settings if one.is_set}
    first = {"base": spec.base, "preset": str(spec.recipe.preset), "steps": str(spec.steps)}
    return {**first, **{key: value for key, value in chosen.items() if key not in first},
            **{key: str(recipe[key]) for key in always}}  # fmt: skip


def recipe_yaml(spec: JobSpec) -> str:
    """The whole recipe as a manifest takes it under `recipe`; what stands in for unset keys is written out."""
    recipe = spec.recipe.model_dump(mode="json")
    recipe |= {one.key: yaml.safe_load(one.value) for one in spec.settings if one.key in recipe and not one.is_set}
    text: str = yaml.safe_dump({**recipe, "steps": spec.steps}, sort_keys=False)
    return text
