"""From a YAML file to a manifest, with every mistake in it and where it stands. Refuses to know what the keys mean.

A file has at most 1 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafleet.config.manifest import Manifest
from lorafleet.config.places import KeyPath, Place, Problems
from lorafleet.config.settling import Settled, settle
from lorafleet.config.yaml_document import Document, read_document
from lorafleet.errors import ManifestError

MAX_BYTES = 2**20
STAND_IN: dict[str, Any] = {"name": "unnamed", "subjects": [{"images": "."}]}
"""For what must be there, so that the rest of a manifest without it can be looked at."""


@dataclass(frozen=True)
class WrittenManifest:
    """A manifest and the file that it stands in."""

    manifest: Manifest
    """Of what is right in the file; where `problems` is empty, that is all of it."""
    problems: Problems
    """Mistakes so far; who finds more adds them."""
    document: Document
    settled: Settled[Manifest]

    def written(self, *path: int | str) -> KeyPath:
        """The path in the file of what is at a path in the manifest."""
        return self.settled.at_home(path)

    def place(self, *path: int | str, key: bool = False) -> Place:
        """Where a value of the manifest, or its key, stands in the file."""
        return self.document.place(self.written(*path), key)

    def add(self, path: KeyPath, message: str, key: bool = False) -> None:
        """Notes a mistake about a value of the manifest, by its path."""
        self.problems.add(self.place(*path, key=key), message)

    def stands_in(self, *path: int | str) -> bool:
        """Whether a value is none of the file's."""
        data: Any = self.document.data
        for part in self.written(*path):
            inside = isinstance(data, dict) and part in data
            if not inside and not (isinstance(data, list) and isinstance(part, int) and part < len(data)):
                return True
            data = data[part]
        return False


def load_manifest(path: Path) -> Manifest:
    """Reads and validates a manifest; ManifestError has a line for each mistake: where, what, and what to do."""
    written = read_manifest(path)
    written.problems.refuse()
    return written.manifest


def read_manifest(path: Path) -> WrittenManifest:
    """Reads a manifest and what is wrong with it. Raises ManifestError if there is nothing that could be looked at."""
    document = read_document(_read(path), str(path))
    if not isinstance(document.data, dict):
        document.problems.refuse()
        raise ManifestError(_about_document(document.data, path))
    subjects = document.data.get("subjects")
    if isinstance(subjects, dict) and "from" in subjects:
        document.wrap("subjects")
    settled = settle(Manifest, document.data, STAND_IN, document.broken, document.raw.get)
    for mistake in settled.mistakes:
        at_key = mistake.kind in ("unknown", "missing")
        document.problems.add(document.place(mistake.path, key=at_key), mistake.message)
    if settled.model is None:
        document.problems.refuse()
        raise ManifestError(f"{path} is no manifest; correct it")  # not reached: what is wrong has been told
    return WrittenManifest(settled.model, document.problems, document, settled)


def _about_document(data: object, path: Path) -> str:
    if data is None:
        return f"{path} is empty; it needs at least name and subjects"
    kind = {"list": "a list", "str": "plain text"}.get(type(data).__name__, f"one {type(data).__name__}")
    return f"{path} holds {kind}; a manifest is a mapping with at least name and subjects"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; give the path of a manifest") from None
    except IsADirectoryError:
        raise ManifestError(f"{path} is a folder; give the path of a manifest (a YAML file)") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ManifestError(f"{path} cannot be read: {reason}; check the path and its permissions") from None
    if len(data) > MAX_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_BYTES} bytes; a manifest names folders, it does not hold data")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        before = data[: problem.start]
        where = Place(str(path), before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        message = f"byte {data[problem.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise ManifestError(f"{where}: {message}") from None
