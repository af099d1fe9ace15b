"""Packs what was made into a few small files, each of them there as a whole or not at all."""

from __future__ import annotations

import tarfile
from pathlib import Path


def pack(folder: Path, archive: Path) -> None:
    """Writes a folder as a `.tar.gz` that holds it under its own name."""
    part = archive.with_name(archive.name + ".part")
    with tarfile.open(part, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    part.replace(archive)
    print(f"wrote {archive} ({archive.stat().st_size / 2**20:.1f} MiB)", flush=True)
