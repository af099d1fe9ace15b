"""The command `adapters rm`: registered versions are removed with their bundles."""

from __future__ import annotations

from typing import Annotated

import typer

from lorafleet.commands.adapters import AsJson
from lorafleet.commands.confirming import Yes, confirm
from lorafleet.console import note, out, print_json
from lorafleet.home import Home
from lorafleet.removal.receipt import Receipt, as_document, as_table
from lorafleet.removal.versions import remove_versions
from lorafleet.tracking.removal import MlflowRemoval


def rm(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION|ALIAS]", show_default=False)],
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Remove an adapter, or one version of it, with its bundles; its run stays. Exit code 3: there is none.

    A running server answers 404 for it within seconds. Submitting its manifest again trains it again. To take a
    person's photographs and pictures out as well: lorafleet forget.
    """
    adapter, _, version = name.partition("@")
    home = Home.from_environment()
    mlflow = MlflowRemoval(home.tracking_uri)
    versions = mlflow.find(adapter, version or None)
    confirm(f"remove {', '.join(map(str, versions))}", yes)
    receipt = Receipt()
    for line in remove_versions(home, mlflow, versions, receipt):
        note(line)
    if as_json:
        print_json({"versions": [str(one) for one in versions], "removed": as_document(receipt.rows)})
    else:
        out.print(as_table(receipt.rows, "removed"))
    return 0
