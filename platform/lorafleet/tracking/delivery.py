"""Entries on their way into one run. Knows MLflow's calls and what it refuses; refuses to know queues and threads."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size

from lorafleet.tracking.client import ABSENT, REFUSED
from lorafleet.tracking.entries import Begun, Entry, Numbers, Picture
from lorafleet.tracking.points import IMAGES, THUMBNAIL

BATCH = 1000  # metrics in one call; MLflow's limit
HAS_IMAGES = "mlflow.loggedImages"  # by this tag MLflow's pages know that there are pictures
log = logging.getLogger(__name__)


def leading(entries: Sequence[Entry]) -> list[Entry]:
    """The entries at the front that go in one call: numbers of at most BATCH metrics, or one of another kind."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if not isinstance(entry, Numbers):
            return batch or [entry]
        size += len(entry.values)
        if batch and size > BATCH:
            break
        batch.append(entry)
    return batch


@dataclass
class Delivery:
    """The calls into one run. Any of them may be repeated: the same entry twice is one point, one picture."""

    client: Any
    run_id: str
    is_unknown: bool = False
    """MLflow has answered that there is no such run."""
    _complained: bool = False
    _tagged: bool = False

    def send(self, batch: Sequence[Entry]) -> None:
        """Sends what `leading` chose; what MLflow refuses is left out, with one warning a run.

        Raises MlflowException or OSError for an outage; then nothing of it may have arrived, or all.
        """
        try:
            self._send(batch)
        except MlflowException as problem:
            if problem.error_code not in REFUSED:
                raise
            if len(batch) == 1:
                self.leave_out(batch[0], problem)
                return
            for entry in batch:  # one bad number must not take the others with it
                self.send([entry])

    def leave_out(self, entry: Entry, problem: Exception) -> None:
        """Says once that something of this run cannot be sent."""
        self.is_unknown |= isinstance(problem, MlflowException) and problem.error_code == ABSENT
        if not self._complained:
            what = f"attempt {entry.attempt}" if isinstance(entry, Begun) else f"step {entry.step}"
            log.warning("MLflow refuses %s of run %s, which is left out: %s", what, self.run_id, problem)
        self._complained = True

    def _send(self, batch: Sequence[Entry]) -> None:
        first = batch[0]
        if isinstance(first, Begun):
            self.client.update_run(self.run_id, status="RUNNING")
            self.client.set_tag(self.run_id, "attempt", str(first.attempt))
        elif isinstance(first, Picture):
            self._send_picture(first)
        else:
            entries = [entry for entry in batch if isinstance(entry, Numbers)]
            self.client.log_batch(self.run_id, metrics=[metric for entry in entries for metric in _metrics(entry)])

    def _send_picture(self, picture: Picture) -> None:
        """As MLflow's `log_image` does it, but under a name that stays, so that sending again replaces."""
        try:
            image = picture.load()
            files = {".png": _encoded(image, "PNG"), THUMBNAIL: _encoded(compress_image_size(image), "WEBP")}
        except (OSError, ValueError) as problem:
            self.leave_out(picture, problem)
            return
        with tempfile.TemporaryDirectory() as folder:
            for ending, data in files.items():
                file = Path(folder) / (picture.name + ending)
                file.write_bytes(data)
                self.client.log_artifact(self.run_id, str(file), IMAGES)
        if not self._tagged:
            self.client.set_tag(self.run_id, HAS_IMAGES, "True")
            self._tagged = True


def _metrics(entry: Numbers) -> list[Any]:
    return [Metric(key, value, entry.milliseconds, entry.step) for key, value in entry.values.items()]


def _encoded(image: Any, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
