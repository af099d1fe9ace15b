"""From a manifest file to a plan: load, check, plan, tied together. What `check`, `plan` and `submit` call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorafleet.bases import Base, fetchable, find_base
from lorafleet.config import Manifest, Recipe
from lorafleet.config.load import WrittenManifest, read_manifest
from lorafleet.config.places import named
from lorafleet.errors import BaseModelError, DataError
from lorafleet.home import Home
from lorafleet_jobs.dataset.about_folders import about_place
from lorafleet_jobs.dataset.about_texts import Texts
from lorafleet_jobs.dataset.class_images import ClassFolder, read_class_folders
from lorafleet_jobs.dataset.doctor import (
    Asked,
    Needs,
    SubjectReport,
    Tick,
    check_subjects,
    refuse_forgotten,
    silent,
)
from lorafleet_jobs.dataset.findings import Finding
from lorafleet_jobs.dataset.paths import absolute
from lorafleet_jobs.dataset.subjects import Subject, find_subjects
from lorafleet_jobs.dataset.token_counts import Counter, counter_of
from lorafleet_jobs.fetching.brought import brought
from lorafleet_jobs.intake.base_size import BaseSize, measure_base
from lorafleet_jobs.intake.conflicts import (
    class_image_conflicts,
    compile_conflicts,
    early_stop_conflicts,
    prompt_conflicts,
    recipe_conflicts,
    subject_conflicts,
)
from lorafleet_jobs.intake.explain import ResolvedRecipe
from lorafleet_jobs.intake.layers import Layer, idle_defaults, layers_of
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.intake.memory_refusal import refuse_memory
from lorafleet_jobs.intake.plan import Done, Plan, make_plan, nothing_done
from lorafleet_jobs.intake.recipes import Resolved, SweepPoint, Told, resolve
from lorafleet_jobs.jobspec import JobSpec


@dataclass(frozen=True)
class CheckedManifest:
    """A manifest and what the doctor found."""

    manifest: Manifest
    folder: Path
    """The manifest's own; relative paths start here."""
    base: Base | None
    base_problem: str
    """Why there is no base; "" if there is one."""
    recipes: tuple[Resolved, ...]
    """For each report, its subject's recipe at each point of the sweep."""
    reports: tuple[SubjectReport, ...]
    class_folders: tuple[ClassFolder, ...] = ()
    size: BaseSize | None = None
    """Of the base, if there is one."""
    notes: tuple[str, ...] = ()
    """What is odd about the manifest and keeps nothing from training."""

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
    """Every recipe that is trained, once, with where each value comes from."""
    notes: tuple[str, ...] = ()
    """What is odd about the manifest and keeps nothing from training."""


def examine(
    manifest_path: Path,
    base: str | None = None,
    tick: Tick = silent,
    workers: int = 1,
    forgotten: frozenset[str] = frozenset(),
) -> CheckedManifest:
    """Loads a manifest and checks its subjects with so many processes; `base` overrides the manifest's.

    `forgotten` are hashes of photographs that are not to be trained on.

    A relative path in the manifest starts at its folder. A base of the hub's that is not on this machine is no error
    here: `base_problem` says so, and low resolution is not judged. Photographs in a zip file or at an address are
    brought under the home first.
    Raises ManifestError with a line for each thing that the manifest itself gets wrong.
    """
    written = read_manifest(manifest_path)
    folder = manifest_path.absolute().parent
    base_here, problem = _base(written, folder, base)
    manifest = _whole(written.manifest, folder, base_here, base)
    size = measure_base(base_here) if base_here is not None else None
    found = find_subjects(manifest, folder, lambda path: written.place(*path), written.problems)
    subjects = brought(found, Home.from_environment().photographs)
    recipes = _resolve_all(written, manifest, subjects, base_here)
    for one in _unique(recipes):
        _tell(written, one.at_points(lambda recipe: recipe_conflicts(recipe, base_here, size)))
        _tell(written, one.at_points(lambda recipe: prompt_conflicts(recipe, manifest.validation.prompts)))
        if manifest.resources.compile:
            _tell(written, one.at_points(compile_conflicts))
    if written.problems:
        _tell_places(written, subjects)
        written.problems.refuse()
    class_folders = tuple(read_class_folders([recipe for one in _unique(recipes) for recipe in one.recipes], folder))
    for conflict in class_image_conflicts(class_folders, base_here) if base_here is not None else ():
        written.add(("recipe",), conflict)
    counter = counter_of(base_here) if base_here is not None else None
    asked = [
        Asked(subject, _needs(one.recipes, base_here, counter), _findings_of(one, class_folders))
        for subject, one in zip(subjects, recipes, strict=True)
    ]
    reports = [refuse_forgotten(report, forgotten) for report in check_subjects(asked, tick, workers)]
    _tell_words(written, manifest, recipes, reports, base_here)
    written.problems.refuse()
    notes = tuple(
        f"{written.place('defaults', key, key=True).short}: {note}" for key, note in idle_defaults(manifest, subjects)
    )
    return CheckedManifest(
        manifest, folder, base_here, problem, recipes, tuple(reports), class_folders, size, notes
    )  # fmt: skip


def prepare(
    manifest_path: Path,
    base: str | None = None,
    machine: Machine | None = None,
    tick: Tick = silent,
    done: Done = nothing_done,
    workers: int = 1,
    forgotten: frozenset[str] = frozenset(),
) -> Prepared:
    """Loads, checks and plans for a machine, by default this one; bad subjects are left out and listed in the plan.

    `done` knows which jobs are done already; `workers` and `forgotten` are as in `examine`.

    Raises ManifestError or BaseModelError for what the manifest gets wrong, DataError if no subject is left to train,
    ManifestError if not even one job fits on the GPUs that there are.
    """
    checked = examine(manifest_path, base, tick, workers, forgotten)
    if checked.base is None or checked.size is None:
        raise BaseModelError(checked.base_problem)
    reports = [(report, one.recipes) for report, one in zip(checked.reports, checked.recipes, strict=True)]
    where = machine or Machine.here()
    plan = make_plan(checked.manifest, reports, checked.base, checked.size, where, checked.class_folders, done)
    if not plan.jobs:
        reasons = "; ".join(f"{skipped.subject}: {skipped.reason}" for skipped in plan.skipped)
        raise DataError(f"{manifest_path}: no subject can be trained; {reasons}")
    trained = {job.subject for job in plan.jobs}
    points = {
        point.recipe.model_dump_json(): point
        for report, one in zip(checked.reports, checked.recipes, strict=True)
        if report.name in trained
        for point in one.points
    }
    if plan.choice is not None:
        recipes = [point.recipe for point in points.values()]
        refuse_memory(plan.choice, recipes, checked.base, checked.size, str(manifest_path))
    resolved = tuple(ResolvedRecipe.of(point, checked.base) for point in points.values())
    planned = [point for report, one in zip(checked.reports, checked.recipes, strict=True) if not report.errors
               for point in one.points]  # fmt: skip
    jobs = tuple(_told(job, point, checked.base) for job, point in zip(plan.jobs, planned, strict=True))
    plan = plan.with_changes(jobs=jobs)
    return Prepared(checked.manifest, checked.reports, plan, checked.base, resolved, checked.notes)


def _told(job: JobSpec, point: SweepPoint, base: Base) -> JobSpec:
    """A planned job with what a reviewer reads of its recipe."""
    return job.with_changes(settings=replace(ResolvedRecipe.of(point, base), recipe=job.recipe).settings())


def _whole(manifest: Manifest, folder: Path, base_here: Base | None, base: str | None) -> Manifest:
    """The manifest with the base that is taken, and with the encoder's folder as an absolute path."""
    name = base_here.name if base_here is not None else base or manifest.base
    early = manifest.early_stop
    if early is not None and early.weights is not None:
        early = early.with_changes(weights=str(absolute(folder, early.weights).resolve()))
    return manifest.with_changes(base=name, early_stop=early)


def _base(written: WrittenManifest, folder: Path, wanted: str | None) -> tuple[Base | None, str]:
    """The base, or None and why it is not here; one that is nowhere is a mistake of whoever named it."""
    name, beside = (wanted, None) if wanted is not None else (written.manifest.base, folder)
    try:
        return find_base(name, beside), ""
    except BaseModelError as problem:
        if not fetchable(name, beside):
            if wanted is not None:
                raise
            written.add(("base",), str(problem))
        return None, str(problem)


def _resolve_all(
    written: WrittenManifest, manifest: Manifest, subjects: Sequence[Subject], base: Base | None
) -> tuple[Resolved, ...]:
    """Each subject's recipe at each point; subjects with the same layers share one object."""
    toy = base.is_toy if base is not None else False
    found: dict[str, Resolved] = {}

    def resolved(layers: tuple[Layer, ...]) -> Resolved:
        layers = tuple(replace(layer, path=written.written(*layer.path)) for layer in layers)
        if (key := repr(layers)) not in found:
            found[key] = resolve(layers, manifest.sweep, toy, written.document.raw.get)
            _tell(written, found[key].mistakes)
        return found[key]

    resolved(layers_of(manifest))
    for noun in manifest.defaults:  # of a class that no subject has, too
        resolved(layers_of(manifest, noun=noun))
    return tuple(resolved(layers_of(manifest, subject)) for subject in subjects)


def _tell(written: WrittenManifest, told: Sequence[Told]) -> None:
    for one in told:
        written.problems.add(one.place or written.document.place(one.path, one.at_key), one.message)


def _tell_places(written: WrittenManifest, subjects: Sequence[Subject]) -> None:
    """Subjects that lie nowhere, beside the other mistakes of a manifest; alone they are findings."""
    for subject in subjects:
        missing = about_place(subject) if not written.stands_in("subjects", subject.entry) else None
        if missing is not None and "images" in subject.places:
            key = "glob" if subject.of_glob else "images"
            at = named((*written.written("subjects", subject.entry), key))
            written.problems.add(subject.places["images"], f"{at}: {missing.message}")


def _tell_words(
    written: WrittenManifest,
    manifest: Manifest,
    recipes: Sequence[Resolved],
    reports: Sequence[SubjectReport],
    base: Base | None,
) -> None:
    """What a recipe and the texts of a subject do not agree on, and an early stop that compares nothing."""
    for one, report in zip(recipes, reports, strict=True):
        for told in one.at_points(lambda recipe, report=report: subject_conflicts(recipe, report)):  # type: ignore[misc]
            key = next((key for what, key in _OF_A_SUBJECT.items() if f"{what} of " in told.message), None)
            _tell(written, [replace(told, place=report.subject.places.get(key)) if key is not None else told])
    if manifest.early_stop is None:
        return
    for one in _unique(recipes):
        group = [report for mine, report in zip(recipes, reports, strict=True) if mine is one]
        for said in early_stop_conflicts(manifest.early_stop, one.recipes, group, base):
            key = said.split(" ")[0].strip(":").partition(".")[2]
            written.add(("early_stop", key), said)


_OF_A_SUBJECT = {"the instance prompt": "instance_prompt", "a caption": "images"}
"""What a conflict can be about besides the recipe, and the key that says where it is."""


def _unique(recipes: Sequence[Resolved]) -> list[Resolved]:
    return list({id(one): one for one in recipes}.values())


def _findings_of(one: Resolved, class_folders: Sequence[ClassFolder]) -> tuple[Finding, ...]:
    """What was found in the folders of class images that a subject's recipes name."""
    named_here = {recipe.prior.images for recipe in one.recipes if recipe.prior is not None}
    return tuple(finding for folder in class_folders if folder.written in named_here for finding in folder.findings)


def _needs(recipes: Sequence[Recipe], base: Base | None, counter: Counter | None) -> Needs:
    """What all sweep points of a subject together ask of its images and texts."""
    sides = [recipe.resolution or (base.resolution if base is not None else None) for recipe in recipes]
    known = [side for side in sides if side is not None]
    texts = Texts(
        token=any(recipe.pivotal for recipe in recipes),
        prefixes=tuple(dict.fromkeys(recipe.caption.prefix for recipe in recipes)),
        learned=max(recipe.pivotal.tokens if recipe.pivotal is not None else 0 for recipe in recipes),
        counter=counter,
    )
    side = max(known) if len(known) == len(sides) else None
    return Needs(side, texts, masks=any(recipe.masked_loss is not None for recipe in recipes))
