"""The command `adapters import`: a LoRA file of another program becomes a registered version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafleet.commands_adapters import AsJson, document


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option("--name", help="Of the adapter; its newest version becomes champion.")],
    base: Annotated[str, typer.Option("--base", help="The base that it is for.")],
    words: Annotated[
        str, typer.Option("--words", help="What <NAME> stands for in a prompt; by default no trigger.")
    ] = "",
    embeddings: Annotated[
        Path | None, typer.Option("--embeddings", help="A textual inversion (clip_l, clip_g) that <NAME> stands for.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="Of the file.")] = "unknown",
    as_json: AsJson = False,
) -> int:
    """Register a LoRA file (.safetensors of kohya, PEFT or diffusers) as an adapter, to serve it."""
    from lorafleet.config.strict import parse
    from lorafleet.console import out, print_json
    from lorafleet.errors import BundleError
    from lorafleet.home import Home
    from lorafleet.importing import Import, import_adapter

    asked = {"file": file, "name": name, "base": base, "words": words, "embeddings": embeddings, "licence": licence}
    found, known = import_adapter(parse(Import, asked, "adapters import", BundleError), Home.from_environment())
    if as_json:
        print_json({**document(found), "new": not known})
        return 0
    out.print(f"{found.name}@{found.version}" + (" (was there already)" if known else ""), markup=False)
    return 0
