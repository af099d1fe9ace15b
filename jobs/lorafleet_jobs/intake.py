"""From a manifest file to a plan: load, check, plan, tied together. What `check`, `plan` and `submit` call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorafleet.bases import HUB, SHIPPED, Base, find_base
from lorafleet.config import Manifest, Recipe
from lorafleet.config.load import load_manifest
from lorafleet.errors import BaseModelError, DataError
from lorafleet_jobs.doctor import SubjectReport, check
from lorafleet_jobs.estimate import Machine, measure_base
from lorafleet_jobs.plan import Plan, make_plan
from lorafleet_jobs.presets import resolve_sweep


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
    sides = [recipe.resolution or (found.resolution if found else None) for recipe in recipes]
    side = None if None in sides else max(side for side in sides if side is not None)
    reports = check(manifest, folder, side, token=any(recipe.pivotal for recipe in recipes))
    return Checked(manifest, folder, found, problem, recipes, tuple(reports))


def prepare(manifest_path: Path, base: str | None = None) -> Prepared:
    """Loads, checks and plans; bad subjects are left out and listed in the plan.

    Raises ManifestError or BaseModelError for what the manifest gets wrong, DataError if no subject is left to train.
    """
    checked = examine(manifest_path, base)
    if checked.base is None:
        raise BaseModelError(checked.base_problem)
    size = measure_base(checked.base)
    plan = make_plan(checked.manifest, checked.recipes, checked.reports, checked.base, size, Machine.here())
    if not plan.jobs:
        first, *others = plan.skipped
        more = f" (and {len(others)} more)" if others else ""
        raise DataError(f"{manifest_path}: no subject can be trained; {first.subject}: {first.reason}{more}")
    return Prepared(checked.manifest, checked.reports, plan, checked.base)


def _base_if_here(name: str) -> tuple[Base | None, str]:
    try:
        return find_base(name), ""
    except BaseModelError as problem:
        if name in SHIPPED or not (name in HUB or "/" in name):
            raise  # no such base anywhere: a mistake in the manifest
        return None, str(problem)
