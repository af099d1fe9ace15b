"""The commands `forget` and `prune`: thin shells around `lorafleet_jobs.forget`."""

from __future__ import annotations

from typing import Annotated

import typer

from lorafleet.commands.confirming import Yes, confirm
from lorafleet.console import note, out, print_json
from lorafleet.home import Home
from lorafleet.removal.receipt import as_document, as_table
from lorafleet_jobs.cli.plan_commands import AsJson
from lorafleet_jobs.forget import forgetting


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
