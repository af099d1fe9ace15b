"""A base in the diffusers layout gets a name under the home, and perhaps another VAE; its weights are linked.

Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from lorafleet.basefiles.adding import Added, Facts, add_base
from lorafleet.basefiles.other_vae import OwnVae, check_vae, find_vae, link, put_vae
from lorafleet.bases import WEIGHED, Base
from lorafleet.home import Home

KEPT = ("tokenizer", "tokenizer_2", "scheduler")
"""Folders without weights."""
PAPERS = ("model_index.json", "README.md", "LICENSE*", "LICENCE*")
WORDS = (".json", ".txt")


def add_folder(base: Base, name: str, home: Home, vae: str = "", licence: str = "") -> Added:
    """Adds a base under another name; with `vae`, a folder or fetched hub id, that VAE instead of its own.

    Files are linked, so that nothing is copied on one file system. Raises BaseModelError.
    """
    folder_of_vae = find_vae(vae) if vae else None
    if folder_of_vae is not None:
        shapes = {name: stored.shape for name, stored in base.tensors("vae").items()}
        check_vae(folder_of_vae, OwnVae(f"base {base.name!r}", base.config("vae"), shapes))
    parts = {part: base.files(part).paths for part in (*WEIGHED, "vae")}
    record = base.record

    def write(folder: Path) -> Facts:
        for part in (*parts, *KEPT):
            (folder / part).mkdir()
            words = [path for path in (base.path / part).iterdir() if path.suffix in WORDS]
            for path in (*words, *parts.get(part, ())):
                link(path, folder / part / path.name)
        for pattern in PAPERS:
            for path in base.path.glob(pattern):
                link(path, folder / path.name)
        if folder_of_vae is not None:
            put_vae(folder_of_vae, folder / "vae")
        return Facts(
            origin=record.origin if record is not None else base.name,
            prediction=record.prediction if record is not None else f"{base.prediction} (its scheduler says so)",
            licence=licence or base.licence,
            attribution=record.attribution if record is not None else "",
            vae=str(folder_of_vae or ""),
            tokenizers=record.tokenizers if record is not None else "",
        )

    return add_base(name, home, 0, write, lambda: _notes(base, folder_of_vae, licence))


def _notes(base: Base, vae: Path | None, licence: str) -> tuple[str, ...]:
    notes = [f"the VAE of {vae}"] if vae is not None else []
    if base.files_choice:
        notes.append(f"from the {base.files_choice}")
    if not licence and base.licence == "unknown":
        notes.append("nothing says the licence; its adapters will say unknown, unless you add it with --licence")
    return tuple(notes)
