"""What is known of a base that its configurations do not say: where it came from, its licence, its files' hashes.

A folder that `lorafleet bases add` made has a record; any other may have a README with Hugging Face's front matter.
Knows these two files; refuses to know weights. Imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from lorafleet.config.manifest import Name
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import BaseModelError

RECORD = "lorafleet-base.json"


class BaseRecord(Strict):
    """lorafleet-base.json: what was true when the base was added."""

    format: str = "lorafleet/base/v1"
    name: Name
    origin: str
    """The file or base that it was made of."""
    prediction: str
    """What the UNet predicts, and how that was known."""
    licence: str
    attribution: str = ""
    """Title and author of the weights."""
    vae: str = ""
    """The folder whose VAE it has instead of its own; empty for its own."""
    tokenizers: str = ""
    """Where its tokenizers are from; empty if they came with it."""
    sha256: dict[str, str]
    """Digests of all other files, by their paths in the folder."""


def read_record(folder: Path) -> BaseRecord | None:
    """The record of an added base, None for any other folder. Raises BaseModelError if it is damaged."""
    where = folder / RECORD
    if not where.is_file():
        return None
    try:
        data = json.loads(where.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        raise BaseModelError(f"cannot read {where} ({problem}); remove the base and add it again") from None
    return parse(BaseRecord, data, str(where), BaseModelError)


def readme_licence(folder: Path) -> str:
    """The licence in the front matter of a folder's README.md, by its own name if it is none of the usual; else ""."""
    try:
        text = (folder / "README.md").read_text("utf-8", "replace")
        head = text.split("---\n")[1] if text.startswith("---\n") else ""
        front = yaml.safe_load(head)
    except (OSError, IndexError, yaml.YAMLError):
        return ""
    if not isinstance(front, dict):
        return ""
    usual, own = front.get("license") or "", front.get("license_name") or ""
    return str(own if own and usual in ("", "other") else usual)
