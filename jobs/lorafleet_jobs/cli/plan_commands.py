"""The commands `check` and `plan`: thin shells around `lorafleet_jobs.intake.prepare` that print what it returns."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lorafleet.console import note, one_line, out, print_json
from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet.removal.forgotten import read_forgotten
from lorafleet_jobs.cli.terminal.options import AsJson
from lorafleet_jobs.cli.terminal.ticking import Ticking, cores
from lorafleet_jobs.intake.choose import gib
from lorafleet_jobs.intake.memory_refusal import memory_note
from lorafleet_jobs.intake.prepare import examine, prepare
from lorafleet_jobs.intake.warning_lines import LEVELS, loud_findings, told_findings, warning_lines
from lorafleet_jobs.jobqueue.asha import Halving, share
from lorafleet_jobs.submission.done import done_in

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lorafleet.config import Recipe
    from lorafleet_jobs.dataset.doctor import SubjectReport
    from lorafleet_jobs.dataset.findings import Level
    from lorafleet_jobs.intake.explain import ResolvedRecipe
    from lorafleet_jobs.intake.plan import Plan
    from lorafleet_jobs.intake.prepare import Prepared

ManifestPath = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="The manifest, a YAML file.", show_default=False)
]
BaseName = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="NAME|PATH|HUB-ID", help="Use this base instead of the manifest's.", show_default=False
    ),
]


class FromLevel(StrEnum):
    """From which level on findings are told."""

    info = "info"
    warning = "warning"
    error = "error"

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels of findings."""
        return LEVELS[: {"error": 1, "warning": 2, "info": 3}[self]]


ForgottenToo = Annotated[
    bool, typer.Option("--forgotten-too", help="Train also on what was forgotten here (lorafleet forget).")
]
NOT_SHOWN = "and where each value comes from (keys that are not shown have their defaults)"
_COLOURS = {"error": "red", "warn": "yellow", "info": "dim"}


def check(
    manifest: ManifestPath,
    base: BaseName = None,
    as_json: AsJson = False,
    level: Annotated[
        FromLevel, typer.Option("--level", help="Tell only what is as bad as this or worse.")
    ] = FromLevel.info,
) -> int:
    """Look at every subject's images and captions, and say what is wrong with them.

    A line for each subject, then the findings; with --level warning or error only the subjects that have any.
    Exit code 0: every subject can be trained. 1: at least one cannot. 2: the manifest itself is wrong.
    """
    checked = examine(manifest, base, Ticking(), cores(), read_forgotten(Home.from_environment()))
    for line in checked.notes:
        note(line, "warning")
    if checked.base is None:
        note(f"D004 (low resolution) and D029 (long captions) cannot be judged: {checked.base_problem}")
    if as_json:
        print_json({"ok": checked.ok, "subjects": [_at_level(report.as_json(), level) for report in checked.reports]})
    else:
        _show_reports(checked.reports, level)
    return 0 if checked.ok else 1


def plan(
    manifest: ManifestPath, base: BaseName = None, as_json: AsJson = False, forgotten_too: ForgottenToo = False
) -> int:  # fmt: skip
    """Show what a submission would do: jobs, what exists and what is new, time, memory and cost. Starts nothing.

    Exit code 0: every subject will train. 1: some are left out. 2: nothing can be trained.
    """
    left_out = forgotten_photographs(forgotten_too)
    prepared = prepare(manifest, base, tick=Ticking(), done=_done, workers=cores(), forgotten=left_out)
    if as_json:
        findings = loud_findings(prepared.reports)
        print_json(
            {
                **prepared.plan.as_json(),
                "recipes": _recipes_json(prepared),
                "findings": findings,
                "notes": prepared.notes,
            }
        )
    else:
        show_plan(prepared)
    return 1 if prepared.plan.skipped else 0


def forgotten_photographs(too: bool) -> frozenset[str]:
    """The hashes of photographs that are not trained on; none if what was forgotten is wanted too."""
    return frozenset() if too else read_forgotten(Home.from_environment())


def show_plan(prepared: Prepared) -> None:
    """Prints a plan for people: its jobs, the resolved recipes, the cost, the base's licence, and who is left out."""
    plan, base = prepared.plan, prepared.base
    recipes = [_chosen(resolved.recipe, plan) for resolved in prepared.recipes]
    table = _table("job", "subject", "images", "steps", "recipe", *([""] if plan.done else []))
    for job in plan.jobs:
        state = [Text("exists", "dim") if job.id in plan.done else Text("new", "green")] if plan.done else []
        number = f"#{recipes.index(job.recipe) + 1}"
        table.add_row(job.id, job.subject, str(len(job.images)), str(job.steps), number, *state)
    out.print(table)
    _show_recipes(prepared.recipes)
    out.print()
    at_once = f", each training up to {len(plan.packs[0])} at a time" if len(plan.packs[0]) > 1 else ""
    workers = max(recipe.workers for recipe in recipes)
    shared = f" of {workers} workers, which share one job" if workers > 1 else ""
    lanes = f"{_count(len(plan.jobs), 'job')} on {_count(plan.lanes, 'lane')}{at_once}{shared}"
    out.print(f"{plan.submission}: {lanes}", markup=False)
    out.print(cost(prepared), markup=False)
    _show_sweep(prepared)
    _show_choice(prepared)
    out.print(f"base {base.name}, licence {base.licence}: its adapters inherit it", markup=False)
    if base.files_choice:
        out.print(f"base {base.name} is loaded from the {base.files_choice}", markup=False)
    show_left_out(prepared)


def cost(prepared: Prepared) -> str:
    """What exists, what is new, and what that takes: `18 adapters exist, 1 new: about 25 s, 40 MB, 0.01 GPU hours`."""
    plan, takes = prepared.plan, prepared.plan.estimate
    there = f"{_count(len(plan.done), 'adapter')} exist{'s' * (len(plan.done) == 1)}, " if plan.done else ""
    if not plan.new:
        return f"{there}nothing is new"
    new = f"{len(plan.new)} new" if plan.done else _count(len(plan.new), "new adapter")
    parts = [f"about {_duration(takes.seconds)}", _megabytes(takes.adapters_mb)]
    if takes.gpu_hours:
        parts.append(f"{takes.gpu_hours:.2g} GPU hours" if takes.gpu_hours < 10 else f"{takes.gpu_hours:.0f} GPU hours")
    if takes.price is not None:
        rate = prepared.manifest.resources.price_per_gpu_hour
        parts.append(f"{takes.price:.2f} at {rate:.2f} a GPU hour")
    return f"{there}{new}: {', '.join(parts)}"


def _done(submission: str, ids: Sequence[str]) -> Collection[str]:
    try:
        return done_in(Home.from_environment())(submission, ids)
    except UnreachableError as problem:
        note(f"which adapters exist is not known: {problem}")
        return ()


def _megabytes(millions: float) -> str:
    return f"{millions:.0f} MB" if millions >= 10 else f"{millions:.2g} MB"


def show_left_out(prepared: Prepared) -> int:
    """What the check found, from warnings up, what may not fit, and which subjects are left out; on stderr.

    Returns how many lines that were.
    """
    choice = prepared.plan.choice
    doubt = memory_note(choice) if choice is not None else None
    lines = [*prepared.notes, *warning_lines(prepared.reports), *([doubt] if doubt is not None else [])]
    for line in lines:
        note(line, "warning")
    for skipped in prepared.plan.skipped:
        note(f"{skipped.subject} is left out; {skipped.reason}", "skipped")
    return len(lines) + len(prepared.plan.skipped)


def _show_choice(prepared: Prepared) -> None:
    """How each lane trains, on what, and what that is estimated to take."""
    plan, choice = prepared.plan, prepared.plan.choice
    if choice is None:
        return
    device, written = choice.device, [resolved.recipe.gradient_checkpointing for resolved in prepared.recipes]
    kept = {recipe.gradient_checkpointing for recipe in map(choice.applied, (one.recipe for one in prepared.recipes))}
    where = f"GPU of {gib(device.mib)} GiB ({device.source})"
    auto = {"checkpointing": "auto" in written, "pack": prepared.manifest.resources.pack == "auto"}
    rows = {
        "device": where if device.on_gpu else f"CPU, {gib(device.mib)} GiB of this machine's memory",
        "precision": ", ".join(choice.precisions),
        "checkpointing": "by recipe" if len(kept) > 1 else "on" if kept == {True} else "off",
        "pack": f"{_count(choice.pack, 'job')} at once",
        "peak memory": f"{gib(choice.peak_memory_mib)} GiB",
    }
    out.print("\neach lane (estimated)", style="bold")
    for name, said in rows.items():
        out.print(f"  {name:<15}{said}" + (" (auto)" if auto.get(name) else ""), markup=False)
    if plan.new:
        time = f"about {_duration(plan.estimate.seconds)}, until the last lane has ended"
        out.print(f"  {'time':<15}{time}", markup=False)
    out.print()


def _chosen(recipe: Recipe, plan: Plan) -> Recipe:
    return recipe if plan.choice is None else plan.choice.applied(recipe)


def _show_sweep(prepared: Prepared) -> None:
    """How many points there are, and when they are compared."""
    written, early = prepared.manifest.sweep.count, prepared.manifest.early_stop
    count = max(Counter(job.subject for job in prepared.plan.jobs).values())
    if written > 1:
        alike = f" ({written} written or drawn, some alike)" if written > count else ""
        out.print(f"{_count(count, 'sweep point')}{alike}, every subject at each", markup=False)
    if early is not None:
        rungs = {rung for job in prepared.plan.jobs if (halving := Halving.of(job)) for rung in halving.rungs()}
        steps = ", ".join(map(str, sorted(rungs)))
        ends = f"early stop by {early.metric} at step {steps}: of each subject the best {share(early.eta)} goes on"
        out.print(f"{ends}; time is estimated without it", markup=False)


def _show_recipes(recipes: Sequence[ResolvedRecipe]) -> None:
    """The first recipe whole, of the others what differs; YAML, with where each value comes from as a comment."""
    first = recipes[0].lines()
    for number, resolved in enumerate(recipes, start=1):
        lines = [line for line in resolved.lines() if number == 1 or line not in first]
        width = min(40, max((len(line.yaml) for line in lines), default=0))
        out.print(f"\nrecipe #{number}, " + (NOT_SHOWN if number == 1 else "where it differs from #1"), style="bold")
        for line in lines:
            out.print(f"  {line.yaml:<{width}}  # {line.origin}", markup=False, soft_wrap=True)


def _recipes_json(prepared: Prepared) -> list[dict[str, Any]]:
    """Each sweep point, its resolved recipe and the ids of its jobs."""
    jobs, recipes = prepared.plan.jobs, [_chosen(one.recipe, prepared.plan) for one in prepared.recipes]
    return [
        {"point": one.point, **one.as_json(), "jobs": [job.id for job in jobs if job.recipe == recipe]}
        for one, recipe in zip(prepared.recipes, recipes, strict=True)
    ]


def _show_reports(reports: Sequence[SubjectReport], level: FromLevel) -> None:
    table = _table("subject", "images", "", "findings")
    for report in reports:
        counts = Counter(one.id for one in report.findings if one.level in level.levels)
        if level is FromLevel.info or counts:
            state = Text("cannot train", "red") if report.errors else Text("ready", "green")
            said = ", ".join(f"{id_} x{count}" if count > 1 else id_ for id_, count in sorted(counts.items()))
            table.add_row(Text(one_line(report.name)), str(len(report.images)), state, said)
    if table.row_count:
        out.print(table)
        out.print()
    for told in told_findings(reports, level.levels):
        out.print(Text.assemble((f"{told.level:<6}", _COLOURS[told.level]), f"{told.id}  ", one_line(told.text)))
    bad = sum(bool(report.errors) for report in reports)
    if bad:
        out.print(f"{bad} of {_count(len(reports), 'subject')} cannot be trained; the others can")
    else:
        out.print(f"{_count(len(reports), 'subject')}, all ready")


def _at_level(document: dict[str, Any], level: FromLevel) -> dict[str, Any]:
    return {**document, "findings": [one for one in document["findings"] if one["level"] in level.levels]}


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
