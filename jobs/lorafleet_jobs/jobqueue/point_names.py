"""What tells the jobs of one adapter apart, in a few words: `rank 16 lr 1e-4`. Knows job rows, and no sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from lorafleet.config.point_wording import name_points
from lorafleet_jobs.jobqueue.job_state import JobRow


def point_names(jobs: Sequence[JobRow]) -> dict[str, str]:
    """For each job's id what tells it from others of its adapter; "" where there is no other."""
    by_adapter: dict[str, list[JobRow]] = {}
    for job in jobs:
        by_adapter.setdefault(job.spec.adapter, []).append(job)
    return {id_: name for group in by_adapter.values() for id_, name in _names(group).items()}


def labels(jobs: Sequence[JobRow]) -> dict[str, str]:
    """For each job's id its name for people: `rex`, or in a sweep `rex rank 16 lr 1e-4`."""
    points = point_names(jobs)
    return {job.id: f"{job.spec.adapter} {points[job.id]}".strip() for job in jobs}


def _names(group: Sequence[JobRow]) -> dict[str, str]:
    return name_points({job.id: {**job.spec.recipe.model_dump(mode="json"), "steps": job.steps} for job in group})
