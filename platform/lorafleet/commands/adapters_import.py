"""The command `adapters import`: a LoRA file of another program becomes a registered version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafleet.commands.adapters import AsJson, document
from lorafleet.config.strict import parse
from lorafleet.console import note, out, print_json
from lorafleet.errors import BundleError
from lorafleet.home import Home


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option("--name", help="The adapter's name; its newest version becomes champion.")],
    base: Annotated[str, typer.Option("--base", help="The base that the file was made for.")],
    words: Annotated[
        str, typer.Option("--words", help="What <NAME> stands for in a prompt; by default no trigger.")
    ] = "",
    embeddings: Annotated[
        Path | None,
        typer.Option(
            "--embeddings",
            help="A textual inversion (clip_l, clip_g, or Replicate's embeddings.pti) that <NAME> stands for.",
        ),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="The file's licence.")] = "unknown",
    forgotten_too: Annotated[
        bool, typer.Option("--forgotten-too", help="Also what was forgotten here (lorafleet forget).")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Register a LoRA file (.safetensors of kohya, OneTrainer, ComfyUI, PEFT, diffusers) as an adapter, to serve it."""
    from lorafleet.formats.importing import Import, import_adapter  # imports torch, which --help is spared

    asked = {"file": file, "name": name, "base": base, "words": words, "embeddings": embeddings, "licence": licence}
    made = import_adapter(parse(Import, asked, "adapters import", BundleError), Home.from_environment(), forgotten_too)
    for text in made.notes:
        note(text)
    if as_json:
        print_json({**document(made.version), "new": not made.known, "notes": list(made.notes)})
        return 0
    reference = f"{made.version.name}@{made.version.version}"
    out.print(reference + (" (was there already)" if made.known else ""), markup=False)
    return 0
