"""The commands on bases: `bases add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lorafleet.basefiles.adding import Naming
from lorafleet.bases import Base
from lorafleet.commands.adapters import AsJson
from lorafleet.config.strict import parse
from lorafleet.console import note, out, print_json
from lorafleet.errors import BaseModelError
from lorafleet.home import Home
from lorafleet.util.quiet import quiet_libraries

GIB = 2**30


def add(
    source: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A checkpoint (.safetensors).")],
    name: Annotated[str, typer.Option("--name", help="The name that manifests and --base give it.")],
    prediction: Annotated[
        Literal["epsilon", "v", "v-zero-snr", "edm"] | None,
        typer.Option("--prediction", help="What the UNet predicts, where the file does not say it."),
    ] = None,
    tokenizers: Annotated[
        Path | None,
        typer.Option(
            "--tokenizers",
            help="A folder with tokenizer and tokenizer_2, or with CLIP's vocab.json and merges.txt; by default those "
            "of an SDXL, or of CLIP, that was fetched.",
        ),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="The licence of the weights; by default what the file says.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Convert a checkpoint of one file (SDXL, Playground v2.5) into a base that manifests and servers find by name."""
    home = Home.from_environment()
    checked = parse(Naming, {"name": name}, "bases add", BaseModelError)
    if not source.is_file():
        raise BaseModelError(f"{source} is not there, or is no file; give a checkpoint's .safetensors file")
    quiet_libraries()
    from lorafleet.basefiles.from_checkpoint import add_checkpoint  # imports torch, which --help is spared

    added = add_checkpoint(source, checked.name, home, prediction, tokenizers, licence)
    for text in added.notes:
        note(text)
    if as_json:
        print_json({**document(added.base), "bytes": added.bytes, "seconds": round(added.seconds, 1)})
        return 0
    took = f"{added.bytes / GIB:.2f} GiB in {added.seconds:.1f} s"
    out.print(f"{added.base.name}: {took}, {added.base.path}", markup=False)
    return 0


def document(base: Base) -> dict[str, Any]:
    """A base as `--json` prints it."""
    return {
        "name": base.name, "prediction": base.prediction, "resolution": base.resolution, "licence": base.licence,
        "path": str(base.path),
    }  # fmt: skip
