"""The commands `bases ls`, `add`, `verify` and `rm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from lorafleet.basefiles.adding import Naming, remove_base
from lorafleet.basefiles.from_folder import add_folder
from lorafleet.bases import HUB, SHIPPED, Base, added_bases, cached_base, find_base
from lorafleet.commands.adapters import AsJson
from lorafleet.config.strict import parse
from lorafleet.console import note, out, print_json
from lorafleet.errors import BaseModelError
from lorafleet.home import Home
from lorafleet.util.files import size_of
from lorafleet.util.quiet import quiet_libraries

GIB = 2**30


def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|BASE", show_default=False, help="A checkpoint (.safetensors), or a base to give another name."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="The name that manifests and --base give it.")],
    prediction: Annotated[
        Literal["epsilon", "v", "v-zero-snr", "edm"] | None,
        typer.Option("--prediction", help="What a checkpoint's UNet predicts, where the file does not say it."),
    ] = None,
    tokenizers: Annotated[
        Path | None,
        typer.Option(
            "--tokenizers",
            help="A folder with tokenizer and tokenizer_2, or with CLIP's vocab.json and merges.txt; by default those "
            "of an SDXL, or of CLIP, that was fetched.",
        ),
    ] = None,
    vae: Annotated[
        str,
        typer.Option(
            "--vae", help="A VAE instead of its own: a folder, or a hub id that was fetched; of SDXL's relatives only."
        ),
    ] = "",
    licence: Annotated[
        str, typer.Option("--licence", help="The licence of the weights; by default what comes with them says.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Make a base of a checkpoint of one file (SDXL, Playground v2.5), or of a base and another VAE."""
    home = Home.from_environment()
    checked = parse(Naming, {"name": name}, "bases add", BaseModelError)
    if Path(source).is_file():
        quiet_libraries()
        from lorafleet.basefiles.from_checkpoint import add_checkpoint  # imports torch, which --help is spared

        added = add_checkpoint(Path(source), checked.name, home, prediction, tokenizers, licence, vae)
    elif source.endswith(".safetensors"):
        raise BaseModelError(f"{source} is not there; give a checkpoint's file")
    elif prediction is not None or tokenizers is not None:
        raise BaseModelError(f"{source} is no checkpoint's file; --prediction and --tokenizers are for these alone")
    else:
        added = add_folder(find_base(source), checked.name, home, vae, licence)
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


def ls(as_json: AsJson = False) -> int:
    """List the bases on this machine: shipped, added, and those known by a short name that were fetched."""
    home = Home.from_environment()
    groups = {
        "shipped": [find_base(name) for name in SHIPPED],
        "fetched": [base for name in HUB if (base := cached_base(name)) is not None],
        "added": added_bases(home),
    }
    bases = [(place, base) for place, group in groups.items() for base in group]
    if as_json:
        print_json({"bases": [{**document(base), "place": p, "bytes": size_of(base.path)} for p, base in bases]})
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("base", "predicts", "side", "GiB", "licence", "place"):
        table.add_column(column, overflow="fold")
    for place, base in bases:
        size = f"{size_of(base.path) / GIB:.2f}"
        table.add_row(base.name, base.prediction, str(base.resolution), size, base.licence, place)
    out.print(table)
    return 0


def verify(name: Annotated[str, typer.Argument(metavar="BASE", show_default=False)], as_json: AsJson = False) -> int:
    """Read every tensor of a base: finite, of its shape, and as it was when it was added.

    Exit code 1: it is not.
    """
    base = find_base(name)
    quiet_libraries()
    from lorafleet.basefiles.verifying import verify_base  # imports torch, which --help is spared

    found = verify_base(base)
    if as_json:
        print_json({"name": base.name, "tensors": found.tensors, "problems": list(found.problems)})
        return 1 if found.problems else 0
    for problem in found.problems:
        note(problem, "problem", "bold red")
    compared = ", every file as it was added" if found.hashed else "; it was not added, so no hash is known"
    if not found.problems:
        out.print(f"{base.name}: {found.tensors} tensors, all finite and of their shapes{compared}", markup=False)
    return 1 if found.problems else 0


def rm(name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)]) -> int:
    """Remove a base that was added. What it was made of stays, and so do adapters.

    Exit code 3: there is none.
    """
    removed = remove_base(name, Home.from_environment())
    out.print(f"removed {name}: {removed.bytes / GIB:.2f} GiB", markup=False)
    return 0
