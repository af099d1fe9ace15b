"""Submissions read back from MLflow: their jobs, what these made, the prompts they were validated with, their photos.

For whoever reviews what was trained and has no job rows. Also keeps what a review leaves on a submission: files under
the parent run. Refuses to know what is in them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.exceptions import MlflowException

from lorafleet.errors import AmbiguousError
from lorafleet.tracking.client import ABSENT, connect, reaching, reaching_run
from lorafleet.tracking.presence import pages
from lorafleet.tracking.runs import PARENT, SHOWN
from lorafleet.util.addresses import sqlite_file

SUBMISSION, JOB = "submission", "job_id"


@dataclass(frozen=True)
class TrainedVersion:
    """A version that a job of a submission made."""

    adapter: str
    version: int
    job_id: str
    photos: Path | None
    """The folder of its training pictures, where its run says; it may be on another machine, or gone."""


@dataclass(frozen=True)
class RecordedSubmission:
    """A submission as its parent run tells it."""

    run_id: str
    id: str
    name: str
    """Of the manifest, and so of the experiment."""
    manifest: str
    """YAML; empty if the run has none."""
    versions: tuple[TrainedVersion, ...]
    """By adapter, then by version."""


@dataclass
class SubmissionRecords:
    """The submissions that MLflow at one address knows. Methods raise UnreachableError when it does not answer."""

    uri: str
    _by_run: dict[str, RecordedSubmission] = field(default_factory=dict)

    @cached_property
    def client(self) -> Any:
        """The connection, made when it is first needed: making one creates a missing database."""
        return connect(self.uri)

    def find(self, wanted: str) -> RecordedSubmission | None:
        """A submission by its id, by its name, of which the newest is meant, or by a beginning of its id; or None.

        Raises AmbiguousError if several begin so.
        """
        database = sqlite_file(self.uri)
        if database is not None and not database.exists():
            return None
        with reaching(self.uri):
            experiments = {one.experiment_id: one.name for one in pages(self.client.search_experiments)}
            runs = self._runs(list(experiments), f"tags.`{SUBMISSION}` != ''")
        exact = [run for run in runs if run.data.tags[SUBMISSION] == wanted]
        named = exact or [run for run in runs if experiments[run.info.experiment_id] == wanted]
        fitting = [run for run in runs if run.data.tags[SUBMISSION].startswith(wanted)]
        if not named and len({run.data.tags[SUBMISSION] for run in fitting}) > 1:
            names = ", ".join(sorted({run.data.tags[SUBMISSION] for run in fitting})[:8])
            raise AmbiguousError(f"submission {wanted!r} could be any of these: {names}; give more of its id")
        chosen = max(named or fitting, key=lambda run: int(run.info.start_time), default=None)
        return None if chosen is None else self._recorded(chosen)

    def of_version_run(self, run_id: str | None) -> RecordedSubmission | None:
        """The submission whose job has this run; None for adapters that were imported, and for runs that are gone."""
        if run_id is None:
            return None
        try:
            with reaching(self.uri):
                parent = self.client.get_run(run_id).data.tags.get(PARENT)
                run = None if parent is None else self.client.get_run(parent)
        except MlflowException as problem:
            if problem.error_code != ABSENT:
                raise
            return None
        return None if run is None else self._recorded(run)

    def of_run(self, run_id: str) -> RecordedSubmission:
        """The submission whose parent run this is. NotFoundError without the run."""
        with reaching_run(self.uri, run_id):
            return self._recorded(self.client.get_run(run_id))

    def keep(self, run_id: str, files: Sequence[Path], folder: str) -> None:
        """Uploads files under `folder` of a run, in place of those of the same names. NotFoundError without the run."""
        with reaching_run(self.uri, run_id):
            for file in files:
                self.client.log_artifact(run_id, str(file), folder)

    def kept(self, run_id: str, folder: str) -> dict[str, str]:
        """The texts of all files under `folder` of a run, by name. NotFoundError without the run."""
        texts = {}
        with reaching_run(self.uri, run_id), tempfile.TemporaryDirectory() as scratch:
            for artifact in self.client.list_artifacts(run_id, folder):
                path = Path(self.client.download_artifacts(run_id, artifact.path, scratch))
                texts[path.name] = path.read_text("utf-8")
        return texts

    def _runs(self, experiments: list[str], wanted: str) -> list[Any]:
        return pages(lambda **page: self.client.search_runs(experiments, wanted, **page))

    def _recorded(self, run: Any) -> RecordedSubmission:
        if run.info.run_id not in self._by_run:
            with reaching(self.uri):
                self._by_run[run.info.run_id] = self._read(run)
        return self._by_run[run.info.run_id]

    def _read(self, run: Any) -> RecordedSubmission:
        children = self._runs([run.info.experiment_id], f"tags.`{PARENT}` = '{run.info.run_id}'")
        own = {child.info.run_id for child in children}
        shared = [one for one in json.loads(run.data.tags.get(SHOWN, "[]")) if one not in own]
        children += [self.client.get_run(one) for one in shared]  # jobs that another submission trained
        photos = {child.data.tags.get(JOB): _photos(child) for child in children}
        versions = [
            TrainedVersion(one.name, int(one.version), one.tags[JOB], photos[one.tags[JOB]])
            for name in sorted({child.data.tags.get("adapter", "") for child in children} - {""})
            for one in self._versions(name)
            if one.tags.get(JOB) in photos
        ]
        versions.sort(key=lambda one: (one.adapter, one.version))
        experiment = self.client.get_experiment(run.info.experiment_id)
        manifest = self._text(run.info.run_id, "manifest.yaml")
        return RecordedSubmission(
            run.info.run_id, run.data.tags.get(SUBMISSION, ""), experiment.name, manifest, tuple(versions)
        )

    def _versions(self, name: str) -> list[Any]:
        return pages(lambda **page: self.client.search_model_versions(f"name = '{name}'", **page))

    def _text(self, run_id: str, name: str) -> str:
        if name not in {artifact.path for artifact in self.client.list_artifacts(run_id)}:
            return ""
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self.client.download_artifacts(run_id, name, scratch)).read_text("utf-8")


def _photos(run: Any) -> Path | None:
    """The folder that a job's run names as its data set, if it is one of a file system."""
    for given in run.inputs.dataset_inputs if run.inputs else ():
        uri = urlsplit(str(json.loads(given.dataset.source).get("uri", "")))
        if uri.scheme == "file":
            return Path(unquote(uri.path))
    return None
