"""The command `init`: writes a first manifest for folders of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafleet.config import SCHEMA_FILE
from lorafleet.console import note
from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.starter import UNKNOWN_CLASS, starter_manifest

Photos = Annotated[
    Path,
    typer.Argument(metavar="PHOTOS", help="A folder with a folder of photos for each subject.", show_default=False),
]
Target = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write the manifest.")]


def init(photos: Photos, out: Target = Path("manifest.yaml")) -> int:
    """Write a manifest for a folder that holds a folder of photos for each subject.

    Classes are guessed from the folders' names. Exit code 2: there are no photos, or the manifest is there already.
    """
    text = starter_manifest(photos, out, SCHEMA_FILE.as_uri())
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ManifestError(f"{out} is there already, and is left as it is; give another file with --out") from None
    subjects = text.count("\n  - {")
    unknown = text.count(f'class: "{UNKNOWN_CLASS}"')
    note(f"{out}: {subjects} subject{'s' * (subjects != 1)}")
    if unknown:
        note(f"{unknown} without a class: say in {out} what they are, as in class: dog")
    note(f"next: lorafleet check {out}")
    return 0
