"""Options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from lorafleet_jobs.cli.terminal.completions import submissions

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
SubmissionId = Annotated[
    str,
    typer.Argument(
        metavar="SUBMISSION",
        help="Its name, its id, or a beginning of that.",
        show_default=False,
        autocompletion=submissions,
    ),
]
NewestSubmission = Annotated[
    str | None,
    typer.Argument(
        metavar="[SUBMISSION]",
        help="Its name, its id, or a beginning of that; the newest by default.",
        autocompletion=submissions,
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="RAY", help="A Ray cluster; by default one here.", show_default=False),
]
