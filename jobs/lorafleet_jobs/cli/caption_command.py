"""The command `caption`: a thin shell around `lorafleet_jobs.captioning`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lorafleet.config import Manifest
from lorafleet.console import note, one_line, out, print_json
from lorafleet.errors import DataError
from lorafleet_jobs.captioning.captioner import find_captioner
from lorafleet_jobs.captioning.wanted import Wanted
from lorafleet_jobs.captioning.writing import Captioned, caption_all, write_caption
from lorafleet_jobs.cli.terminal.options import AsJson
from lorafleet_jobs.cli.terminal.ticking import Ticking, cores
from lorafleet_jobs.dataset.doctor import Asked, Needs, SubjectReport, check_subjects
from lorafleet_jobs.dataset.findings import some
from lorafleet_jobs.dataset.subjects import find_subjects
from lorafleet_jobs.intake.prepare import examine

Target = Annotated[
    Path,
    typer.Argument(metavar="MANIFEST|FOLDER", help="A manifest, or one folder of photographs.", show_default=False),
]
CaptionerName = Annotated[
    str | None,
    typer.Option(
        "--captioner",
        metavar="NAME",
        help="florence-2, blip, wd14, toy, or one that a package brings; by default the first that is ready.",
        show_default=False,
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="FOLDER|HUB-ID", help="The captioner's weights, on this machine.", show_default=False
    ),
]
ClassNoun = Annotated[
    str | None,
    typer.Option(
        "--class", metavar="WORD", help="What a FOLDER shows, as in dog; a manifest says it itself.", show_default=False
    ),
]


def caption(
    target: Target,
    captioner: CaptionerName = None,
    model: ModelName = None,
    noun: ClassNoun = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write new captions where there are some.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the captions, and write nothing.")] = False,
    as_json: AsJson = False,
) -> int:
    """Write captions for photographs that have none, with TOK in the subject's place.

    They go to a text file beside each photograph; look through them, and correct what is wrong. Nothing is downloaded.
    Exit code 0: every photograph has a caption. 1: some are left without. 2: there is no captioner, or no photograph.
    """
    wanted = _of_folder(target, noun, overwrite) if target.is_dir() else _of_manifest(target, noun, overwrite)
    for file in wanted.taken:
        note(f"{file} is there and not read as a caption, so it stays; lorafleet check says why", "warning")
    for name in wanted.elsewhere:
        note(f"{name}: captions are not written into a zip file or to an address; give its folder", "warning")
    left = bool(wanted.taken or wanted.elsewhere)
    if not wanted.photographs:
        if not wanted.captioned and not left:
            raise DataError(f"there is no photograph in {target}; lorafleet check says why")
        note(f"{wanted.captioned} photographs have a caption, nothing to do; --overwrite writes new ones")
        return _answer([], None, as_json, dry_run, left)
    by = find_captioner(captioner, model)
    made = []
    for one in caption_all(wanted.photographs, by, Ticking("photographs have a caption")):
        made.append(one)
        if not dry_run:
            write_caption(one)
    return _answer(made, by.name, as_json, dry_run, left)


def _of_folder(folder: Path, noun: str | None, overwrite: bool) -> Wanted:
    spec = {"images": str(folder.absolute()), "name": "subject", "class": noun or "?"}
    [subject] = find_subjects(Manifest.model_validate({"name": "captions", "subjects": [spec]}), folder)
    wanted = Wanted()
    [report] = check_subjects([Asked(subject, Needs())])
    _tell(report)
    wanted.add(report, overwrite=overwrite)
    return wanted


def _of_manifest(manifest: Path, noun: str | None, overwrite: bool) -> Wanted:
    if noun is not None:
        raise typer.BadParameter("a manifest says it itself, with class:; leave it out", param_hint="--class")
    checked, wanted = examine(manifest, tick=Ticking(), workers=cores()), Wanted()
    for report, resolved in zip(checked.reports, checked.recipes, strict=True):
        _tell(report)
        wanted.add(report, {recipe.caption.prefix for recipe in resolved.recipes}, overwrite)
    return wanted


def _tell(report: SubjectReport) -> None:
    """That a subject has no photographs, or which of them cannot be read."""
    if not report.images and report.errors:
        note(f"{report.name}: {report.errors[0].message}", "warning")
    if bad := [one.file or "" for one in report.findings if one.id in ("D002", "D003", "D015") and one.file]:
        note(f"{report.name}: not read, and without a caption: {some(bad)}", "warning")


def _answer(made: list[Captioned], by: str | None, as_json: bool, dry_run: bool, left: bool) -> int:
    if as_json:
        print_json(
            {"captioner": by, "written": bool(made) and not dry_run, "captions": [_as_json(one) for one in made]}
        )
    elif made:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("subject", "photograph", "caption"):
            table.add_column(column, overflow="fold")
        for one in made:
            cells = (one.photograph.subject, one.photograph.path.name, one.caption)
            table.add_row(*(Text(one_line(cell)) for cell in cells))
        out.print(table)
        how = "would be written; leave --dry-run out to do so" if dry_run else "written; look through them"
        note(f"{len(made)} caption{'s' * (len(made) > 1)} by {by} {how}")
    return 1 if left else 0


def _as_json(one: Captioned) -> dict[str, Any]:
    photograph = one.photograph
    return {
        "subject": photograph.subject, "image": str(photograph.path), "caption_file": str(photograph.target),
        "caption": one.caption,
    }  # fmt: skip
