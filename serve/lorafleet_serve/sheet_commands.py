"""The commands `sheet`, `compare` and `votes`: options, and what is printed.

What they need of torch and MLflow is imported inside them, so that their `--help` answers at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafleet_serve.serve_commands import (
    GuidanceOption,
    JsonOption,
    NegativeOption,
    SchedulerOption,
    StepsOption,
)

if TYPE_CHECKING:
    from lorafleet_serve.sheet.candidates import Found
    from lorafleet_serve.sheet.cells import Block, Shot

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="SUBMISSION|ADAPTER...",
        help="A submission's name or id, with all its adapters and sweep points; an adapter's name, NAME@VERSION or "
        "NAME@ALIAS; a bundle's folder.",
        show_default=False,
    ),
]
PromptsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        help="With TOK, {class} and {name} for the subject's own; repeat for several. By default the submission's "
        "validation prompts.",
    ),
]
SeedsOption = Annotated[
    list[int] | None, typer.Option("--seed", help="Repeat for several. By default the submission's validation seed.")
]
ScalesOption = Annotated[str, typer.Option(help="The adapter's scales, a column each.")]
PhotoOption = Annotated[bool, typer.Option("--photo/--no-photo", help="A training photo in the first column.")]
BaseOption = Annotated[str | None, typer.Option(help="By default the adapters' own.")]
OutOption = Annotated[
    Path | None, typer.Option(help="OUT.html and OUT.png are written; by default named after the first target.")
]
XOption = Annotated[
    str, typer.Option("--x", help="The columns: scale=, sampler=, steps=, seed=, adapter, point or prompt.")
]
YOption = Annotated[str, typer.Option("--y", help="The rows: another of these.")]


def sheet(
    targets: Targets,
    prompt: PromptsOption = None,
    scales: ScalesOption = "0.6,1.0",
    seed: SeedsOption = None,
    photo: PhotoOption = True,
    base: BaseOption = None,
    steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    scheduler: SchedulerOption = None,
    negative_prompt: NegativeOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> int:
    """Make a contact sheet of adapters, as a PNG and as a page with blind votes: photo, base, words alone, adapter.

    Exit code 1: some pictures could not be made. 3: no such submission or adapter.
    """
    from lorafleet_serve.sheet.contact import contact_blocks
    from lorafleet_serve.sheet.making import first_photo

    numbers = _numbers("--scales", scales)
    found = _found(targets, base)
    like = _shot(found, steps, guidance_scale, scheduler, negative_prompt)
    prompts = _prompts(found, prompt, negative_prompt)
    first = {folder: first_photo(folder) if photo else None for folder in {one.photos for one in found.candidates}}
    photos = [first[one.photos] for one in found.candidates]
    blocks = contact_blocks(found, photos, prompts, seed or [like.seed], numbers, like)
    return _made(" ".join(targets), found, blocks, out or Path(f"{_slug(targets[0])}-sheet"), base, json)


def compare(
    targets: Targets,
    x: XOption = "scale=0.4,0.7,1",
    y: YOption = "adapter",
    prompt: PromptsOption = None,
    seed: Annotated[int | None, typer.Option(help="By default the submission's validation seed.")] = None,
    scale: Annotated[float, typer.Option(help="The adapter's scale, where it is no axis.")] = 1.0,
    base: BaseOption = None,
    steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    scheduler: SchedulerOption = None,
    negative_prompt: NegativeOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> int:
    """Make an XY sheet: two of scale, adapter, sweep point, prompt, sampler, steps and seed against each other.

    An axis is written as in --x scale=0.4,0.7,1 or --y sampler=euler,ddim; adapter, point and prompt are written alone.
    What is no axis has a table for each of its values.

    Exit code 1: some pictures could not be made. 3: no such submission or adapter.
    """
    from dataclasses import replace

    from lorafleet_serve.sheet.axes import read_axis, xy_blocks

    found = _found(targets, base)
    like = _shot(found, steps, guidance_scale, scheduler, negative_prompt)
    like = replace(like, scale=scale, seed=like.seed if seed is None else seed)
    prompts = _prompts(found, prompt, negative_prompt)
    across, down = (read_axis(text, found, prompts) for text in (x, y))
    blocks = xy_blocks(found, across, down, prompts, like)
    title = f"{' '.join(targets)}: {down.name} and {across.name}"
    return _made(title, found, blocks, out or Path(f"{_slug(targets[0])}-compare"), base, json)


def votes(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|SUBMISSION...",
            help="Files that sheets' pages exported; a submission's name or id for the votes that it has.",
            show_default=False,
        ),
    ],
    json: JsonOption = False,
) -> int:
    """Add blind votes to their submission, and rank what was voted on, with 95 % intervals.

    The same votes twice count once. Exit code 2: no file of votes. 3: an adapter or submission is not known here.
    """
    from lorafleet.console import note, out, print_json
    from lorafleet.home import Home
    from lorafleet.tracking import MlflowRegistry
    from lorafleet.tracking.submissions import SubmissionRecords
    from lorafleet_serve.sheet.outcome import as_json, outcome_of, read_words, tables
    from lorafleet_serve.sheet.poll import take_poll

    home = Home.from_environment()
    records = SubmissionRecords(home.tracking_uri)
    given, named = read_words(files, records)
    registered = MlflowRegistry(home.tracking_uri, home.adapter_cache).list()
    poll = take_poll(given, named, records, registered)
    outcome = outcome_of(poll, registered)
    if json:
        print_json(as_json(outcome))
        return 0
    for table, said in tables(outcome):
        out.print(table)
        out.print(said, markup=False)
        out.print()
    for line in outcome.remarks:
        note(line)
    return 0


def _found(targets: Sequence[str], base: str | None) -> Found:
    from lorafleet.console import working

    with working("finding adapters ..."):
        from lorafleet.home import Home
        from lorafleet.tracking import MlflowRegistry
        from lorafleet.tracking.submissions import SubmissionRecords
        from lorafleet_serve.sheet.candidates import Finder

        home = Home.from_environment()
        registry = MlflowRegistry(home.tracking_uri, home.adapter_cache, base=base)
        return Finder(registry, SubmissionRecords(home.tracking_uri)).find(targets)


def _shot(
    found: Found, steps: int | None, guidance: float | None, scheduler: str | None, negative: str | None
) -> Shot:  # fmt: skip
    from lorafleet_serve.sheet.cells import Shot

    first, validation = found.candidates[0], found.validation
    return Shot(
        first, first, "", validation.seed, steps=steps or validation.steps, guidance_scale=guidance,
        scheduler=scheduler, negative_prompt=negative,
    )  # fmt: skip


def _prompts(found: Found, prompts: Sequence[str] | None, negative: str | None) -> Sequence[str]:
    from lorafleet_serve.sheet.cells import DEFAULT_PROMPTS, check_prompts

    chosen = prompts or found.validation.prompts or DEFAULT_PROMPTS
    check_prompts(chosen, negative)
    return list(dict.fromkeys(chosen))


def _made(title: str, found: Found, blocks: tuple[Block, ...], out: Path, base: str | None, json: bool) -> int:
    """Makes the sheet, keeps it on its submissions, and says where it is."""
    from lorafleet.console import err, note, print_json, working
    from lorafleet.console import out as stdout
    from lorafleet.errors import UnreachableError
    from lorafleet.home import Home
    from lorafleet.tracking.submissions import SubmissionRecords
    from lorafleet_serve import local
    from lorafleet_serve.engine.requests import AdapterUse
    from lorafleet_serve.sheet.cells import Sheet
    from lorafleet_serve.sheet.produce import keep, produce

    base = base or local.base_of([AdapterUse(one.adapter) for one in found.candidates], "")
    plan = Sheet(title, base, found, blocks)
    out = out.with_suffix("") if out.suffix in (".html", ".png") else out
    if err.is_terminal:
        with err.status(f"loading {base} ...") as status:
            written = produce(plan, out, lambda done, of: status.update(f"{done} of {of} pictures"))
    else:
        written = produce(plan, out, lambda done, of: None)
    runs: list[str] = []
    try:
        with working("keeping the sheet in MLflow ..."):
            runs = keep(written, plan, SubmissionRecords(Home.from_environment().tracking_uri))
    except UnreachableError as problem:
        note(f"{problem}; the sheet is here, and not in MLflow")
    for reason in written.failed:
        note(f"pictures are missing: {reason}")
    if json:
        page, png = (str(path.resolve()) for path in (written.page, written.png))
        print_json({"page": page, "png": png, "pictures": written.pictures, "runs": runs, "failed": written.failed})
    else:
        kept = " (also under sheets/ of the submission's run)" if runs else ""
        stdout.print(f"{written.page} and {written.png.name}: {written.pictures} pictures{kept}", markup=False)
    return 1 if written.failed else 0


def _numbers(option: str, text: str) -> list[float]:
    from lorafleet.errors import RequestError

    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise RequestError(f"{option} {text!r} are no numbers; write them as in {option} 0.6,1.0") from None


def _slug(target: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(target).name).strip("-.") or "adapters"
