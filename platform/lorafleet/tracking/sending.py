"""Entries on their way into one run: which MLflow calls they take, and what MLflow refuses.

Any call may be made again: the same entry sent twice is one point, or one picture, for MLflow keeps one of two points
that are the same in everything and one of two files of one name. Refuses to know where entries wait.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size
from PIL import Image

from lorafleet.bundle.ports import Caption, RunEnd, RunEntry
from lorafleet.tracking.client import ABSENT, REFUSED
from lorafleet.tracking.picture_table import Row, add_rows, row_of

MOST_METRICS = 1000
"""Metrics in one call; MLflow's limit."""
MOST_TAG = 4000
"""Characters of a tag's value that MLflow surely takes."""
IMAGES, THUMBNAIL = "images", "+compressed.webp"
HAS_IMAGES = "mlflow.loggedImages"
"""The tag by which MLflow's pages know that there are pictures."""
NAMES = uuid.UUID("6d0f9f8a-6c1c-4c60-9a8e-1a6c5b2f7f11")
"""Makes a picture's name the same whenever it is sent; any constant would do."""
log = logging.getLogger(__name__)


@dataclass
class RunWriter:
    """Writes entries into one run. Methods raise MlflowException or OSError when MLflow does not answer."""

    client: Any
    run_id: str
    refused: list[RunEntry] = field(default_factory=list)
    """What MLflow will never take."""
    _rows: list[Row] = field(default_factory=list)
    """Of pictures that have been sent, and are not in the run's table yet."""

    def write(self, entries: Sequence[RunEntry]) -> None:
        """Writes entries in their order; what MLflow refuses is left out, with one warning a run."""
        for kind, group in groupby(entries, key=lambda entry: entry.kind):
            same = list(group)
            at_once = MOST_METRICS if kind == "metric" else 1
            for start in range(0, len(same), at_once):
                self._tolerantly(same[start : start + at_once])
            if self._rows:  # before whoever sends takes their pictures for sent
                add_rows(self.client, self.run_id, self._rows)
                self._rows = []

    def _tolerantly(self, batch: Sequence[RunEntry]) -> None:
        try:
            self._send(batch)
        except MlflowException as problem:
            if problem.error_code not in REFUSED:
                raise
            if len(batch) > 1 and problem.error_code != ABSENT:
                for entry in batch:  # one bad number must not take the others with it
                    self._tolerantly([entry])
            else:
                self._refuse(batch, problem)

    def _refuse(self, batch: Sequence[RunEntry], problem: Exception) -> None:
        if not self.refused:
            first = batch[0]
            what = f"{first.kind} {first.key} of step {first.step}".replace("  ", " ")
            log.warning("MLflow refuses %s of run %s, which is left out: %s", what, self.run_id, problem)
        self.refused += batch

    def _send(self, batch: Sequence[RunEntry]) -> None:
        first = batch[0]
        if first.kind == "attempt":
            self.client.update_run(self.run_id, status="RUNNING")
            self.client.set_tag(self.run_id, "attempt", str(first.step))
        elif first.kind == "picture":
            self._send_picture(first)
        elif first.kind == "end":
            end_run(self.client, self.run_id, RunEnd(**json.loads(first.value)))
        else:
            points = [Metric(entry.key, float(entry.value), entry.milliseconds, entry.step) for entry in batch]
            self.client.log_batch(self.run_id, metrics=points)

    def _send_picture(self, entry: RunEntry) -> None:
        """As MLflow's `log_image` does it, but under a name that stays, so that sending again replaces."""
        name = picture_name(self.run_id, entry)
        with Image.open(io.BytesIO(entry.picture or b"")) as image, tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{name}.png").write_bytes(entry.picture or b"")
            compress_image_size(image).save(Path(folder) / f"{name}{THUMBNAIL}", "WEBP")
            for file in sorted(Path(folder).iterdir(), key=lambda path: path.suffix):  # the thumbnail last
                self.client.log_artifact(self.run_id, str(file), IMAGES)
        self.client.set_tag(self.run_id, HAS_IMAGES, "True")
        if entry.value:
            caption = Caption(**json.loads(entry.value))
            self._rows.append(row_of(caption, entry.step, f"{IMAGES}/{name}.png", f"{IMAGES}/{name}{THUMBNAIL}"))


def picture_name(run_id: str, entry: RunEntry) -> str:
    """The name, without an ending, of a picture's files; MLflow's image grid reads key, step and time from it."""
    same = uuid.uuid5(NAMES, f"{run_id}/{entry.key}/{entry.step}")
    return f"{entry.key.replace('/', '~')}+step+{entry.step}+timestamp+{entry.milliseconds}+{same}"


def end_run(client: Any, run_id: str, end: RunEnd) -> None:
    """Closes a run; an error becomes a tag beside the others."""
    tags = {**end.tags, **({} if end.error is None else {"error": end.error})}
    if tags:
        client.log_batch(run_id, tags=[RunTag(key, value[:MOST_TAG]) for key, value in tags.items()])
    client.set_terminated(run_id, end.status)
