"""From a manifest file to a plan: load, check, plan, tied together. What `check`, `plan` and `submit` call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet.bases import Base, fetchable, find_base
from lorafleet.config import Manifest, Recipe
from lorafleet.config.load import load_manifest
from lorafleet.config.sweep import nested
from lorafleet.errors import BaseModelError, DataError
from lorafleet_jobs.dataset.about_texts import Texts
from lorafleet_jobs.dataset.class_images import ClassFolder, read_class_folders
from lorafleet_jobs.dataset.doctor import Needs, SubjectReport, check
from lorafleet_jobs.dataset.token_counts import counter_of
from lorafleet_jobs.intake.base_size import BaseSize, measure_base
from lorafleet_jobs.intake.conflicts import refuse, refuse_class_images, refuse_compile, refuse_early_stop, refuse_words
from lorafleet_jobs.intake.explain import ResolvedRecipe
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.intake.memory_refusal import refuse_memory
from lorafleet_jobs.intake.plan import Plan, make_plan
from lorafleet_jobs.intake.presets import SweepPoint, at_point, resolve_points


@dataclass(frozen=True)
class CheckedManifest:
    """A manifest and what the doctor found."""

    manifest: Manifest
    folder: Path
    """The manifest's own; relative paths start here."""
    base: Base | None
    base_problem: str
    """Why there is no base; "" if there is one."""
    points: tuple[SweepPoint, ...]
    """Of the sweep; one with an empty point without."""
    reports: tuple[SubjectReport, ...]
    class_folders: tuple[ClassFolder, ...] = ()
    size: BaseSize | None = None
    """Of the base, if there is one."""

    @property
    def ok(self) -> bool:
        """Whether every subject can be trained."""
        return not any(report.errors for report in self.reports)


@dataclass(frozen=True)
class Prepared:
    """A manifest, what the doctor found, and the plan for what is good."""

    manifest: Manifest
    reports: tuple[SubjectReport, ...]
    plan: Plan
    base: Base
    recipes: tuple[ResolvedRecipe, ...]
    """One for each sweep point, with who set what."""


def examine(manifest_path: Path, base: str | None = None) -> CheckedManifest:
    """Loads a manifest and checks its subjects; `base` overrides the manifest's.

    A relative path in the manifest starts at its folder. A base of the hub's that is not on this machine is no error
    here: `base_problem` says so, and low resolution is not judged.
    Raises ManifestError for what the manifest itself gets wrong.
    """
    manifest = load_manifest(manifest_path)
    folder = manifest_path.absolute().parent
    if base is not None:
        manifest = manifest.with_changes(base=base)
    if manifest.early_stop is not None and manifest.early_stop.weights is not None:
        weights = str((folder / Path(manifest.early_stop.weights).expanduser()).resolve())
        manifest = manifest.with_changes(early_stop=manifest.early_stop.with_changes(weights=weights))
    base_here, problem = _base_if_here(manifest.base, folder if base is None else None)
    manifest = manifest.with_changes(base=base_here.name if base_here is not None else manifest.base)
    toy = base_here.is_toy if base_here is not None else False
    points = tuple(resolve_points(manifest, toy, str(manifest_path)))
    recipes = [one.recipe for one in points]
    size = measure_base(base_here) if base_here is not None else None
    if manifest.resources.compile:
        refuse_compile(recipes, str(manifest_path))
    for one in points:
        refuse(one.recipe, base_here, size, at_point(str(manifest_path), one.point))
    sides = [recipe.resolution or (base_here.resolution if base_here else None) for recipe in recipes]
    side = None if None in sides else max(side for side in sides if side is not None)
    class_folders = tuple(read_class_folders(recipes, folder))
    if base_here is not None:
        refuse_class_images(class_folders, base_here, str(manifest_path))
    shared = [finding for class_folder in class_folders for finding in class_folder.findings]
    reports = check(manifest, folder, _needs(recipes, side, base_here), shared)
    for one in points:
        refuse_words(one.recipe, reports, manifest.validation.prompts, at_point(str(manifest_path), one.point))
    if manifest.early_stop is not None:
        refuse_early_stop(manifest.early_stop, recipes, reports, base_here, str(manifest_path))
    return CheckedManifest(manifest, folder, base_here, problem, points, tuple(reports), class_folders, size)


def prepare(manifest_path: Path, base: str | None = None, machine: Machine | None = None) -> Prepared:
    """Loads, checks and plans for a machine, by default this one; bad subjects are left out and listed in the plan.

    Raises ManifestError or BaseModelError for what the manifest gets wrong, DataError if no subject is left to train,
    ManifestError if not even one job fits on the GPUs that there are.
    """
    checked = examine(manifest_path, base)
    if checked.base is None or checked.size is None:
        raise BaseModelError(checked.base_problem)
    recipes = [one.recipe for one in checked.points]
    plan = make_plan(
        checked.manifest,
        recipes,
        checked.reports,
        checked.base,
        checked.size,
        machine or Machine.here(),
        checked.class_folders,
    )
    if not plan.jobs:
        reasons = "; ".join(f"{skipped.subject}: {skipped.reason}" for skipped in plan.skipped)
        raise DataError(f"{manifest_path}: no subject can be trained; {reasons}")
    if plan.choice is not None:
        refuse_memory(plan.choice, recipes, checked.base, checked.size, str(manifest_path))
    written = checked.manifest.recipe
    resolved = [ResolvedRecipe(one.recipe, written, nested(one.point), checked.base) for one in checked.points]
    return Prepared(checked.manifest, checked.reports, plan, checked.base, tuple(resolved))


def _needs(recipes: Sequence[Recipe], side: int | None, base: Base | None) -> Needs:
    """What all sweep points together ask of the images and texts."""
    texts = Texts(
        token=any(recipe.pivotal for recipe in recipes),
        prefixes=tuple(dict.fromkeys(recipe.caption.prefix for recipe in recipes)),
        learned=max(recipe.pivotal.tokens if recipe.pivotal is not None else 0 for recipe in recipes),
        counter=counter_of(base) if base is not None else None,
    )
    return Needs(side, texts, masks=any(recipe.masked_loss is not None for recipe in recipes))


def _base_if_here(name: str, beside: Path | None) -> tuple[Base | None, str]:
    try:
        return find_base(name, beside), ""
    except BaseModelError as problem:
        if not fetchable(name, beside):
            raise  # no such base anywhere: a mistake in the manifest
        return None, str(problem)
