"""Files that outlive a power cut: nothing returns before the disk has it. Knows paths and bytes only."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns once a file's bytes, or a folder's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and returns once it is on disk; its folder has to be synced by itself."""
    path.write_bytes(data)
    sync(path)
