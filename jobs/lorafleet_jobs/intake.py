"""From a manifest file to a plan: load, check, plan, tied together. What `check`, `plan` and `submit` call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet.bases import HUB, SHIPPED, Base, find_base
from lorafleet.config import Manifest, Recipe
from lorafleet.config.load import load_manifest
from lorafleet.errors import BaseModelError, DataError
from lorafleet_jobs.class_images import ClassFolder, read_class_folders
from lorafleet_jobs.doctor import Needs, SubjectReport, check
from lorafleet_jobs.estimate import Machine
from lorafleet_jobs.layers import BaseSize, measure_base
from lorafleet_jobs.plan import Plan, make_plan
from lorafleet_jobs.presets import at_point, resolve_sweep
from lorafleet_jobs.refusals import refuse, refuse_words
from lorafleet_jobs.resolved import Resolved


@dataclass(frozen=True)
class Checked:
    """A manifest and what the doctor found."""

    manifest: Manifest
    folder: Path
    """The manifest's own; relative paths start here."""
    base: Base | None
    base_problem: str
    """Why there is no base; "" if there is one."""
    recipes: tuple[Recipe, ...]
    """One for each sweep point."""
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
    recipes: tuple[Resolved, ...]
    """One for each sweep point, with who set what."""


def examine(manifest_path: Path, base: str | None = None) -> Checked:
    """Loads a manifest and checks its subjects; `base` overrides the manifest's.

    A base that is not on this machine is no error here: `base_problem` says so, and low resolution is not judged.
    Raises ManifestError for what the manifest itself gets wrong.
    """
    manifest = load_manifest(manifest_path)
    folder = manifest_path.absolute().parent
    if base is not None:
        manifest = manifest.with_changes(base=base)
    elif manifest.base.startswith(("./", "../")):
        manifest = manifest.with_changes(base=str((folder / manifest.base).resolve()))
    found, problem = _base_if_here(manifest.base)
    toy = found.is_toy if found is not None else False
    recipes = tuple(resolve_sweep(manifest, toy, str(manifest_path)))
    size = measure_base(found) if found is not None else None
    for recipe, point in zip(recipes, manifest.sweep_points(), strict=True):
        refuse(recipe, found, size, at_point(str(manifest_path), point))
    sides = [recipe.resolution or (found.resolution if found else None) for recipe in recipes]
    side = None if None in sides else max(side for side in sides if side is not None)
    class_folders = tuple(read_class_folders(recipes, folder))
    shared = [finding for class_folder in class_folders for finding in class_folder.findings]
    reports = check(manifest, folder, _needs(recipes, side), shared)
    for recipe, point in zip(recipes, manifest.sweep_points(), strict=True):
        refuse_words(recipe, reports, manifest.validation.prompts, at_point(str(manifest_path), point))
    return Checked(manifest, folder, found, problem, recipes, tuple(reports), class_folders, size)


def prepare(manifest_path: Path, base: str | None = None) -> Prepared:
    """Loads, checks and plans; bad subjects are left out and listed in the plan.

    Raises ManifestError or BaseModelError for what the manifest gets wrong, DataError if no subject is left to train.
    """
    checked = examine(manifest_path, base)
    if checked.base is None or checked.size is None:
        raise BaseModelError(checked.base_problem)
    plan = make_plan(
        checked.manifest,
        checked.recipes,
        checked.reports,
        checked.base,
        checked.size,
        Machine.here(),
        checked.class_folders,
    )
    if not plan.jobs:
        first, *others = plan.skipped
        more = f" (and {len(others)} more)" if others else ""
        raise DataError(f"{manifest_path}: no subject can be trained; {first.subject}: {first.reason}{more}")
    points, written = checked.manifest.sweep_points(), checked.manifest.recipe
    resolved = [Resolved(r, written, point, checked.base) for r, point in zip(checked.recipes, points, strict=True)]
    return Prepared(checked.manifest, checked.reports, plan, checked.base, tuple(resolved))


def _needs(recipes: Sequence[Recipe], side: int | None) -> Needs:
    """What all sweep points together ask of the images."""
    prefixes = [recipe.caption.prefix for recipe in recipes]
    return Needs(
        resolution=side,
        token=any(recipe.pivotal for recipe in recipes),
        prefix=prefixes[0] if len(set(prefixes)) == 1 else "",
        masks=any(recipe.masked_loss is not None for recipe in recipes),
    )


def _base_if_here(name: str) -> tuple[Base | None, str]:
    try:
        return find_base(name), ""
    except BaseModelError as problem:
        if name in SHIPPED or not (name in HUB or "/" in name):
            raise  # no such base anywhere: a mistake in the manifest
        return None, str(problem)
