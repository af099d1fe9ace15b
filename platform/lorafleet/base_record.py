"""What is known of a base that its configurations do not say: where it came from, its licence, its files' hashes.

A folder that `lorafleet bases add` made has a record; any other may have a README with Hugging Face's front matter.
Knows these two files; refuses to know weights. Imports no torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from lorafleet.config.manifest import Name
from lorafleet.config.strict import Strict, parse
from lorafleet.errors import BaseModelError

RECORD = "lorafleet-base.json"
USUAL_LICENCES = (
    "agpl-3.0", "apache-2.0", "bigscience-openrail-m", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m", "gpl-3.0", "lgpl-3.0", "mit", "openrail", "openrail++", "other",
    "unknown", "unlicense",
)  # fmt: skip
"""Those that Hugging Face knows by these ids, of what image models have; any other is "other" with a name."""


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

    @property
    def from_hub(self) -> bool:
        """Whether the origin is a name by which others find it: a short name or a hub id, no path."""
        return not self.origin.startswith("/")

    @property
    def made_of(self) -> str:
        """Whose weights it has, in words, without saying where on this machine they lay."""
        whose = f"{self.attribution}, " if self.attribution else ""
        return f"{whose}added from {self.origin if self.from_hub else Path(self.origin).name}"


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


def licence_front_matter(licence: str) -> dict[str, str]:
    """A licence as a README's front matter has it: by Hugging Face's id, or as another with its name."""
    if licence.lower() in USUAL_LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.+]+", "-", licence.lower()).strip("-")}
