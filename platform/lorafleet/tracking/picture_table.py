"""A run's table of pictures, of which MLflow's evaluation view makes prompts x runs.

The table is MLflow's own (what `log_table` writes); its cells point at the pictures that the run has already, so that
none lies there twice. Knows rows of one run; refuses to know who made the pictures.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorafleet.bundle.ports import Caption, Shown

FILE = "validation.json"
COLUMNS = ("prompt", "picture", "asked", "shows", "step", "seed")
"""By the first MLflow's view groups its rows until it is told otherwise."""
ORDER: Sequence[Shown] = ("adapter", "words only", "base", "by step")
TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow's pages know of a run's tables."""
Row = Sequence[Any]


def row_of(caption: Caption, step: int, file: str, thumbnail: str) -> Row:
    """A picture's row; `file` and `thumbnail` are artifacts of the run."""
    picture = {"type": "image", "filepath": file, "compressed_filepath": thumbnail}
    return [_label(caption, step), picture, caption.prompt, caption.shows, step, caption.seed]


def add_rows(client: Any, run_id: str, rows: Sequence[Row]) -> None:
    """Puts rows into a run's table, each in the place of the one of the same name; what was trained comes first.

    For the one process that sends a run's pictures: the table is read, and written anew.
    """
    merged = {row[0]: row for row in (*_rows(client, run_id), *rows)}
    ordered = sorted(merged.values(), key=lambda row: (ORDER.index(row[3]), row[2], row[4]))
    table = {"columns": list(COLUMNS), "data": ordered}
    client.log_text(run_id, json.dumps(table, ensure_ascii=False), FILE)
    client.set_tag(run_id, TABLES, json.dumps([{"path": FILE, "type": "table"}]))


def _rows(client: Any, run_id: str) -> list[Row]:
    if not any(one.path == FILE for one in client.list_artifacts(run_id)):
        return []
    with tempfile.TemporaryDirectory() as folder:
        table: Mapping[str, Any] = json.loads(Path(client.download_artifacts(run_id, FILE, folder)).read_text("utf-8"))
    return list(table["data"])


def _label(caption: Caption, step: int) -> str:
    """What tells a row from all others of its run, and is the same for all runs."""
    if caption.shows == "adapter":
        return caption.name
    return f"{caption.name} ({f'step {step}' if caption.shows == 'by step' else caption.shows})"
