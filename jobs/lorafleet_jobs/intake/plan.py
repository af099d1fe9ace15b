"""From a manifest and what the doctor found to the jobs that will run. Pure: the same in, the same ids out.

Knows subjects, sweep points, ids, packs and lanes; refuses to know where anything runs. A bad subject is left out and
listed; the others still train.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from lorafleet.bases import Base
from lorafleet.config import Manifest, Recipe
from lorafleet.config.strict import Strict
from lorafleet_jobs.dataset.class_images import ClassFolder, images_of
from lorafleet_jobs.dataset.doctor import SubjectReport
from lorafleet_jobs.dataset.findings import Finding
from lorafleet_jobs.intake.base_size import BaseSize
from lorafleet_jobs.intake.choose import Choice
from lorafleet_jobs.intake.estimate import Estimate, choice_for, estimate
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.jobspec import ImageSpec, JobSpec

RECIPE_CODE = "3"
"""Raised when training code changes what the same recipe comes to; part of every job's id."""


class Skipped(Strict):
    """A subject that will not be trained, and why."""

    subject: str
    reason: str


class Plan(Strict):
    """Everything that a submission will do."""

    submission: str
    jobs: tuple[JobSpec, ...]
    packs: tuple[tuple[str, ...], ...]
    """Job ids that start together; as one ends, the next takes its place."""
    lanes: int
    estimate: Estimate
    choice: Choice | None = None
    """How each lane trains; None without jobs."""
    skipped: tuple[Skipped, ...] = ()
    done: tuple[str, ...] = ()
    """Ids of jobs whose adapters exist, so that they are not trained again; the estimate leaves them out."""

    @property
    def new(self) -> tuple[JobSpec, ...]:
        """The jobs that are to be trained."""
        done = set(self.done)
        return tuple(job for job in self.jobs if job.id not in done)

    def as_json(self) -> dict[str, Any]:
        """The plan as `plan --json` prints it."""
        rows = [{"id": j.id, "subject": j.subject, "adapter": j.adapter, "steps": j.steps} for j in self.jobs]
        return {**self.model_dump(mode="json"), "jobs": rows}


Done = Callable[[str, Sequence[str]], Collection[str]]
"""Of a submission and the ids of its jobs, which of these are done."""


def nothing_done(submission: str, ids: Sequence[str]) -> Collection[str]:
    """None of them."""
    return ()


def make_plan(
    manifest: Manifest,
    reports: Sequence[tuple[SubjectReport, Sequence[Recipe]]],
    base: Base,
    size: BaseSize,
    machine: Machine,
    class_folders: Sequence[ClassFolder] = (),
    done: Done = nothing_done,
) -> Plan:
    """Every good subject at every sweep point, once each; each report comes with its subject's recipe at each point.

    Ids depend on what is trained (pictures, captions, masks, class images, prompts, recipe, base), never on the order
    of subjects, on where files lie, or on lanes and packs.
    """
    good = [(report, recipes) for report, recipes in reports if not report.errors]
    drafts = [_draft(manifest, report, recipe, base, class_folders) for report, recipes in good for recipe in recipes]
    submission = f"{manifest.name}-{_digest(_submission_content(manifest, base, drafts))[:10]}"
    resources, choice = manifest.resources, None
    if drafts:
        choice = choice_for(drafts, base, size, machine, resources)
        drafts = [one.with_changes(submission=submission, recipe=choice.applied(one.recipe)) for one in drafts]
    jobs = tuple(drafts)
    there = set(done(submission, [job.id for job in jobs]))
    new = [job for job in jobs if job.id not in there]
    return Plan(
        submission=submission,
        jobs=jobs,
        packs=_packs(jobs, choice.pack) if choice is not None else (),
        lanes=min(resources.lanes, len(jobs)),
        estimate=estimate(new, base, size, machine, resources, choice),
        done=tuple(job.id for job in jobs if job.id in there),
        choice=choice,
        skipped=tuple(Skipped(subject=r.name, reason=_reason(r.errors)) for r, _ in reports if r.errors),
    )


def _packs(jobs: Sequence[JobSpec], size: int) -> tuple[tuple[str, ...], ...]:
    """Jobs in the order they are leased, `size` at a time."""
    return tuple(tuple(job.id for job in jobs[i : i + size]) for i in range(0, len(jobs), size))


def dataset_fingerprint(images: Sequence[ImageSpec]) -> str:
    """16 hex digits over the images' contents, captions and masks, in order; file names and folders do not count."""
    content = [[i.sha256, i.caption, *([i.mask.sha256] if i.mask is not None else [])] for i in images]
    return _digest(content)[:16]


def _draft(
    manifest: Manifest, report: SubjectReport, recipe: Recipe, base: Base, class_folders: Sequence[ClassFolder]
) -> JobSpec:
    noun = " ".join((report.subject.class_noun or "").split())
    images = report.images
    if recipe.masked_loss is None:  # a mask that is not used is no part of the job
        images = tuple(image.with_changes(mask=None) for image in images)
    job = JobSpec(
        id="",
        submission="",
        subject=report.name,
        adapter=report.name,
        base=base.name,
        folder=str(report.subject.folder),
        images=images,
        class_images=images_of(recipe, class_folders),
        class_noun=noun,
        instance_prompt=report.subject.instance_prompt or f"a photo of TOK {noun}",
        recipe=recipe,
        steps=recipe.step_count(len(report.images)),
        validation=manifest.validation,
        early_stop=manifest.early_stop,
        promotion=manifest.promotion if manifest.sweep.count == 1 else None,
        dataset_fingerprint=dataset_fingerprint(images),
    )
    return job.with_changes(id=_digest(_job_content(job, base))[:16])


def _job_content(job: JobSpec, base: Base) -> dict[str, Any]:
    elsewhere = {
        "id", "submission", "base", "folder", "images", "class_images", "early_stop", "promotion", "settings"
    }  # fmt: skip
    content = job.model_dump(mode="json", exclude=elsewhere)
    del content["recipe"]["workers"]  # changes nothing
    if job.recipe.gradient_checkpointing == "auto":  # changes nothing beyond rounding; decided by the card
        content["recipe"]["gradient_checkpointing"] = False
    if job.class_images is not None:
        content["recipe"]["prior"]["images"] = dataset_fingerprint(job.class_images.images)
    return {**content, "base": base.fingerprint, **base.chosen, "code": RECIPE_CODE}


def _submission_content(manifest: Manifest, base: Base, jobs: Sequence[JobSpec]) -> dict[str, Any]:
    trained = manifest.model_dump(mode="json", include={"apiVersion", "name", "recipe", "sweep", "validation"})
    if manifest.early_stop is not None:
        trained["early_stop"] = manifest.early_stop.model_dump(mode="json", exclude={"weights"})
    return {**trained, "base": base.fingerprint, **base.chosen, "jobs": sorted(job.id for job in jobs)}


def _reason(errors: Sequence[Finding]) -> str:
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{errors[0].id}: {errors[0].message}{more}"


def _digest(content: object) -> str:
    """Sha256 over canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
