"""Which versions of a submission are champions, once all its jobs have ended: of a sweep at most its best point.

The registry decides whether a version takes a champion's place; this chooses the one that asks, and tells what became
of all. An outage is told, never fatal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import yaml

from lorafleet.bundle.ports import CHALLENGER, Score
from lorafleet.config import Manifest
from lorafleet.config.strict import parse
from lorafleet.errors import LorafleetError, UnreachableError
from lorafleet_jobs.jobqueue.asha_scores import ScoreBook
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.store import JobStore

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking

LINES = 6
"""Challengers that are named; of more only their number."""


def settle_champions(store: JobStore, submission: str, tracking: MlflowTracking) -> list[str]:
    """Settles the champions of a sweep's names; returns what a submitter should know, a line each."""
    row, jobs = store.submission(submission), [job for job in store.jobs(submission) if job.version is not None]
    try:
        manifest = parse(Manifest, yaml.safe_load(row.manifest), f"the manifest of {submission}")
    except LorafleetError as problem:  # written by another release
        return [f"{problem}; no champion was chosen"]
    metric = None if manifest.early_stop is None else manifest.early_stop.metric
    scores = ScoreBook(store.engine).furthest(submission)
    try:
        for job in chosen(jobs, scores):
            score = None if metric is None or job.id not in scores else Score(metric, scores[job.id][1])
            tracking.settle(job.spec.adapter, job.version or 0, manifest.promotion, score)
        return waiting(jobs, tracking.aliases({job.spec.adapter for job in jobs}))
    except UnreachableError as problem:
        return [f"{problem}; champions are as they were"]


def chosen(jobs: Sequence[JobRow], scores: Mapping[str, tuple[int, float]]) -> list[JobRow]:
    """Of each name that a sweep trained several times the best point: the highest score at the furthest rung.

    Where nothing was scored, the first point of the manifest; one that has learned something visible before any other.
    """

    def rank(job: JobRow) -> tuple[bool, int, float]:
        return (job.kind != "unchanged", *scores.get(job.id, (0, 0.0)))

    best: dict[str, JobRow] = {}
    for job in sorted(jobs, key=lambda job: job.position):
        if job.spec.promotion is None:
            now = best.setdefault(job.spec.adapter, job)
            if rank(job) > rank(now):
                best[job.spec.adapter] = job
    return list(best.values())


def waiting(jobs: Sequence[JobRow], aliases: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One line for the versions that wait as challengers and may be worth promoting, or none."""
    found = []
    for job in jobs:
        held = aliases.get(job.spec.adapter, {})
        if held.get(CHALLENGER) == job.version and job.kind != "unchanged":
            others = ", ".join(f"{alias} is @{n}" for alias, n in sorted(held.items()) if alias != CHALLENGER)
            found.append(f"{job.spec.adapter}@{job.version}" + (f" ({others})" if others else ""))
    if not found:
        return []
    named = ", ".join(found[:LINES]) + (f" and {len(found) - LINES} more" if len(found) > LINES else "")
    verb = "waits as challenger" if len(found) == 1 else "wait as challengers"
    example = found[0].partition(" ")[0]
    return [f"{named} {verb}; if it is better: lorafleet adapters promote {example}"]
