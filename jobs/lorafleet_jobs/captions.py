"""Captions beside images: sidecar `.txt`, else `metadata.jsonl`, else `metadata.csv`.

Knows files and their formats; refuses to know models. An image that none of them names has no caption, and the
subject's instance prompt stands in.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from lorafleet_jobs.findings import Finding, reserved_text

MAX_BYTES = 4 * 2**20
TABLES = ("metadata.jsonl", "metadata.csv")


@dataclass
class Captions:
    """Captions by image file name, and what was wrong on the way."""

    by_file: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def error(self, id: str, message: str, file: str) -> None:  # noqa: A002
        """Notes something that keeps the subject from training."""
        self.findings.append(Finding(id=id, level="error", message=message, file=file))


def read_captions(folder: Path, images: Sequence[str], column: str) -> Captions:
    """The captions of the named images in a folder; `column` is their key in a metadata table."""
    captions = Captions()
    table = next((name for name in TABLES if (folder / name).is_file()), None)
    if table is not None and (text := _text(folder, table, captions)) is not None:
        _read_table(table, text, images, column, captions)
    for image in images:
        sidecar = str(Path(image).with_suffix(".txt"))
        if (folder / sidecar).is_file() and (text := _text(folder, sidecar, captions)) is not None:
            _keep(captions, image, text, sidecar)
    return captions


def leaves(folder: Path, file: Path) -> bool:
    """Whether a file, its links followed, lies outside the folder."""
    return not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def _text(folder: Path, name: str, captions: Captions) -> str | None:
    path = folder / name
    if leaves(folder, path):
        captions.error("D015", f"{name} is a link out of the folder; put a copy of the file there", name)
        return None
    if path.stat().st_size > MAX_BYTES:
        captions.error("D022", f"{name} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read", name)
        return None
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as problem:
        captions.error("D022", f"{name} is not UTF-8 (byte {problem.start}); save it as UTF-8", name)
    except OSError as problem:
        captions.error("D022", f"{name} cannot be read: {problem.strerror}; check its permissions", name)
    return None


def _read_table(table: str, text: str, images: Sequence[str], column: str, captions: Captions) -> None:
    rows = list(_json_rows(table, text, captions) if table.endswith("jsonl") else _csv_rows(table, text, captions))
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    for needed in ("file_name", column):
        if rows and needed not in columns:
            remedy = "set caption_column" if needed == column else "add it"
            message = f"{table} has no column {needed!r}, only {', '.join(map(str, columns))}; {remedy}"
            captions.error("D021", message, table)
            return
    for line, row in rows:
        name, caption = row.get("file_name"), row.get(column)
        if not isinstance(name, str) or name not in images:
            message = f"{table} line {line} names {name!r}, which is no image of this folder; the line is ignored"
            captions.findings.append(Finding(id="D022", level="warn", message=message, file=table))
        elif caption is not None and not isinstance(caption, str):
            captions.error("D022", f"{table} line {line}: the caption is {caption!r}; give text", table)
        elif caption is not None:
            _keep(captions, name, caption, table)


def _json_rows(table: str, text: str, captions: Captions) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    for line, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as problem:
            captions.error("D022", f"{table} line {line} is not JSON ({problem}); write one object a line", table)
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            captions.error("D022", f"{table} line {line} is not a JSON object; write one object a line", table)


def _csv_rows(table: str, text: str, captions: Captions) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    reader = csv.DictReader(StringIO(text, newline=""), restkey="(more)")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as problem:
        captions.error("D022", f"{table} line {reader.line_num} is not CSV ({problem}); correct it", table)


def _keep(captions: Captions, image: str, text: str, source: str) -> None:
    caption = " ".join(text.split())
    if (reserved := reserved_text(caption)) is not None:
        captions.error(
            "D014", f"{source}: the caption of {image} holds {reserved!r}, which is reserved; remove it", source
        )
    elif caption:
        captions.by_file[image] = caption
