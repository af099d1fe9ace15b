"""The commands `adapters ls`, `show` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lorafleet.bundle.bundle import read_bundle
from lorafleet.bundle.change import REMEDY, unchanged_note
from lorafleet.console import note, out, print_json
from lorafleet.home import Home
from lorafleet.tracking import MlflowRegistry

if TYPE_CHECKING:
    from lorafleet.bundle.bundle import AdapterCard
    from lorafleet.bundle.ports import AdapterVersion
    from lorafleet.tracking import MlflowRegistry

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def ls(as_json: AsJson = False) -> int:
    """List every adapter version."""
    adapters = _registry().list()
    if as_json:
        print_json({"adapters": [document(adapter) for adapter in adapters]})
        return 0
    if not adapters:
        note("no adapter is registered yet; train some: lorafleet submit MANIFEST, or: lorafleet adapters import FILE")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    scored = any(adapter.score for adapter in adapters)
    noted = any(adapter.unchanged for adapter in adapters)
    columns = ["adapter", "version", "aliases", *(["score"] if scored else []), *(["learned"] if noted else [])]
    for column in (*columns, "base", "prompt it with"):
        table.add_column(column, overflow="fold")
    for adapter in adapters:
        cells = [adapter.name, str(adapter.version), ", ".join(adapter.aliases)]
        cells += [f"{adapter.score.value:.3g} {adapter.score.metric}" if adapter.score else ""] if scored else []
        cells += ["nothing" if adapter.unchanged else ""] if noted else []
        table.add_row(*cells, adapter.base, " ".join(adapter.triggers))
    out.print(table)
    if noted:
        note(f"learned nothing visible: their pictures are as before training; {REMEDY}")
    return 0


def show(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION|ALIAS]", show_default=False)], as_json: AsJson = False
) -> int:
    """Show one adapter version: how to prompt it, what it came from, where it lies.

    Exit code 3: there is none.
    """
    adapter, _, version = name.partition("@")
    registered = _registry().resolve(adapter, version or None)
    card = read_bundle(registered.path).card
    if as_json:
        print_json({**document(registered), "card": card.model_dump(mode="json")})
        return 0
    facts = {
        "adapter": f"{registered.name}@{registered.version}"
        + (f" ({', '.join(registered.aliases)})" if registered.aliases else ""),
        "base": f"{card.base} ({card.base_fingerprint})",
        "prompt it with": " ".join(registered.triggers) or "any prompt; it has no trigger",
        **_origin(card),
        "rank, alpha": f"{card.rank}, {card.alpha:g}",
        "licence": card.licence,
        "run": registered.run_id or "none",
        "path": str(registered.path),
    }
    if said := unchanged_note(card.metrics):
        facts["learned"] = said
    for key, value in [*facts.items(), *(("note", text) for text in card.notes)]:
        out.print(f"{key:15} {value}", markup=False)
    return 0


def export(
    name: Annotated[str, typer.Argument(metavar="NAME[@VERSION|ALIAS]", show_default=False)],
    to: Annotated[
        Literal["kohya", "diffusers"], typer.Option("--format", help="kohya is what A1111, Forge and ComfyUI read.")
    ],
    folder: Annotated[Path, typer.Option("--out", help="The folder to write to; replaces files of the same names.")],
    as_json: AsJson = False,
) -> int:
    """Write one adapter version for other programs.

    Exit code 3: there is none.
    """
    adapter, _, version = name.partition("@")
    registered = _registry().resolve(adapter, version or None)
    bundle = read_bundle(registered.path)
    from lorafleet.formats.export import DORA_READERS, FORMATS  # imports torch: only once there is something to write

    written = FORMATS[to](bundle, folder)
    if bundle.card.dora and to == "kohya":
        note(DORA_READERS)
    if as_json:
        files = [str(path.resolve()) for path in written]
        print_json({"name": registered.name, "version": registered.version, "format": to, "files": files})
        return 0
    for path in written:
        out.print(str(path), markup=False)
    return 0


def _registry() -> MlflowRegistry:
    home = Home.from_environment()
    return MlflowRegistry(home.tracking_uri, home.adapter_cache)


def _origin(card: AdapterCard) -> dict[str, str]:
    if card.imported_from:
        return {"imported from": f"{card.imported_from} ({card.recipe['format']}'s format)"}
    return {"trained on": f"{card.images} images as {card.instance_prompt!r}, {card.steps} steps"}


def document(adapter: AdapterVersion) -> dict[str, Any]:
    """An adapter version as `--json` prints it."""
    return {
        "name": adapter.name, "version": adapter.version, "aliases": list(adapter.aliases), "base": adapter.base,
        "triggers": list(adapter.triggers), "path": str(adapter.path), "unchanged": adapter.unchanged,
        "score": None if adapter.score is None else {"metric": adapter.score.metric, "value": adapter.score.value},
    }  # fmt: skip
