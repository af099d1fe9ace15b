"""The commands `forget` and `prune`: thin shells around `lorafleet_jobs.forget`."""

from __future__ import annotations

from typing import Annotated

import typer

from lorafleet.commands.confirming import Yes, confirm
from lorafleet.console import note, out, print_json
from lorafleet.home import Home
from lorafleet.removal.receipt import Receipt, as_document, as_table
from lorafleet_jobs.cli.terminal.options import AsJson
from lorafleet_jobs.forget import forgetting, pruning


def forget(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", show_default=False)],
    submission: Annotated[
        str | None,
        typer.Option("--submission", metavar="SUBMISSION", help="Only what this one made of it.", show_default=False),
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Remove everything of a subject for good: adapters, pictures, latents, checkpoints, runs, logs.

    Its photographs and weights are refused from then on, by submit and adapters import. The folder of photographs that
    was trained on is yours, and stays. A receipt is kept under the home.
    Exit code 1: something is left to be done. 2: it is being trained. 3: there is no such subject. 4: MLflow does not
    answer; then nothing was removed.
    """
    home = Home.from_environment()
    found = forgetting.find(home, subject, submission)
    confirm(found.sentence, yes)
    folders = sorted({row.spec.folder for row in found.mine.jobs if row.spec.folder})
    done = forgetting.forget(home, found)
    for line in done.notes:
        note(line)
    for folder in folders:
        note(f"the photographs in {folder} are yours, and stay; delete them there")
    for line in done.stays:
        note(line, "still to do", "bold red")
    if as_json:
        removed = as_document(done.receipt.rows)
        print_json({"subject": subject, "removed": removed, "stays": list(done.stays), "receipt": str(done.file)})
    else:
        out.print(as_table(done.receipt.rows, f"forgotten of {subject}"))
        note(str(done.file), "receipt", "dim")
    return 1 if done.stays else 0


def prune(
    days: Annotated[float, typer.Option("--days", min=0, help="Caches go that were not used for so many days.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete it; otherwise it is only shown.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show what of a home nothing needs any more, and with --yes delete it.

    Checkpoints of jobs that have ended, files that dead processes left half-written, caches that were not used for a
    while, cached bundles that are registered no longer. Adapters, runs and reports stay.
    Exit code 4: MLflow does not answer; then nothing was deleted.
    """
    home = Home.from_environment()
    found = pruning.find_prunable(home, days)
    receipt, kept = Receipt(), tuple[str, ...]()
    if yes:
        done = pruning.prune(home, found)
        receipt, kept = done.receipt, done.kept
    else:
        for kind, lying in found.items():
            receipt.add(kind, len(lying), sum(one.bytes for one in lying))
    for line in kept:
        note(line)
    if as_json:
        print_json({"deleted": yes, "removed": as_document(receipt.rows), "kept": list(kept)})
    elif receipt.rows:
        out.print(as_table(receipt.rows, "deleted" if yes else "not needed"))
    if not receipt.rows:
        note(f"nothing under {home.root} can go")
    elif not yes:
        note("nothing was deleted yet; delete it with: lorafleet prune --yes")
    return 0
