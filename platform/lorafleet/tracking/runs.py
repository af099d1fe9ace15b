"""Runs: one parent a submission, one child a job, and the bundle that a job leaves.

Experiment = manifest name. What a run says about a job is its resolved recipe, flat, and the data set's fingerprint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
from mlflow.exceptions import MlflowException

from lorafleet.bundle import Bundle
from lorafleet.config import Recipe
from lorafleet.errors import UnreachableError
from lorafleet.ports import AdapterVersion
from lorafleet.tracking import registry
from lorafleet.tracking.client import PRESENT, connect, is_server, reaching
from lorafleet.tracking.tracker import MlflowJobTracker

Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobInfo:
    """What a child run says about its job."""

    name: str
    """Of the run."""
    job_id: str
    subject: str
    adapter: str
    base: str
    steps: int
    recipe: Recipe
    folder: str
    images: int
    dataset_fingerprint: str


@dataclass
class MlflowTracking:
    """MLflow at one address. Methods raise UnreachableError when it does not answer; the trackers it gives never do."""

    uri: str
    artifact_root: Path
    """Where artifacts lie when `uri` is a database; a server decides for itself."""
    _trackers: dict[str, MlflowJobTracker] = field(default_factory=dict)
    _experiments: dict[str, str] = field(default_factory=dict)

    @cached_property
    def client(self) -> Any:
        """The connection, made when it is first needed: making one creates a missing database."""
        return connect(self.uri)

    def start_submission(self, name: str, submission: str, params: Mapping[str, str], manifest_yaml: str) -> str:
        """Opens the parent run in the experiment `name`, with the manifest as an artifact; returns its run id."""
        with reaching(self.uri):
            tags = {"submission": submission, "mlflow.source.name": "lorafleet"}
            run = self.client.create_run(self._experiment(name), run_name=f"{name} {submission[:8]}", tags=tags)
            parent: str = run.info.run_id
            self.client.log_batch(parent, params=[Param(key, value) for key, value in params.items()])
            self.client.log_text(parent, manifest_yaml, "manifest.yaml")
        return parent

    def start_job(self, parent: str, job: JobInfo) -> str:
        """Opens a child run that waits for its lane: tags, the flat recipe, the data set; returns its run id."""
        with reaching(self.uri):
            tags = {
                "mlflow.parentRunId": parent, "mlflow.source.name": "lorafleet",
                "job_id": job.job_id, "subject": job.subject, "adapter": job.adapter,
            }  # fmt: skip
            run = self.client.create_run(self._experiment_of(parent), run_name=job.name, tags=tags)
            child: str = run.info.run_id
            params = {**_flat(job.recipe.model_dump(mode="json")), "base": job.base, "subject": job.subject}
            params["steps"] = str(job.steps)
            self.client.log_batch(child, params=[Param(key, value) for key, value in params.items()])
            self.client.log_inputs(child, [_dataset(job)])
            self.client.update_run(child, status="SCHEDULED")
        return child

    def resume(self, run_id: str, attempt: int) -> None:
        """Marks a run as running, in its nth attempt; an outage is only logged."""
        try:
            with reaching(self.uri):
                self.client.update_run(run_id, status="RUNNING")
                self.client.set_tag(run_id, "attempt", str(attempt))
        except (UnreachableError, MlflowException) as problem:
            log.warning("%s", problem)

    def job_tracker(self, run_id: str) -> MlflowJobTracker:
        """Where a job's numbers and pictures go; `finish` sends what still waits in it."""
        return self._trackers.setdefault(run_id, MlflowJobTracker(self.client, self.uri, run_id))

    def finish(self, run_id: str, status: Status, error: str | None = None) -> None:
        """Closes a run after sending what its tracker kept back; `error` becomes a tag."""
        with reaching(self.uri):
            if (tracker := self._trackers.get(run_id)) is not None and not tracker.flush(now=True):
                raise UnreachableError(f"MLflow at {self.uri} does not answer; {tracker.waiting} entries still wait")
            if error is not None:
                self.client.log_batch(run_id, tags=[RunTag("error", error[:4000])])
            self.client.set_terminated(run_id, status)
        self._trackers.pop(run_id, None)

    def settle(self, run_id: str, status: Status, error: str | None = None) -> None:
        """Closes a run that nobody closed; one that has ended already stays as it ended."""
        with reaching(self.uri):
            if self.client.get_run(run_id).info.status not in ("RUNNING", "SCHEDULED"):
                return
        self.finish(run_id, status, error)

    def log_bundle(self, run_id: str, path: Path) -> None:
        """Uploads the folder of a bundle under `adapter/`; doing it twice changes nothing."""
        with reaching(self.uri):
            self.client.log_artifacts(run_id, str(path), registry.ARTIFACT)

    def registered(self, adapter: str, job_id: str) -> AdapterVersion | None:
        """The version that a job has already published, if any."""
        with reaching(self.uri):
            return registry.published(self.client, adapter, job_id)

    def register(self, bundle: Bundle, run_id: str) -> AdapterVersion:
        """Registers a bundle that `log_bundle` uploaded and names it champion; once a job, however often called."""
        with reaching(self.uri):
            return registry.register(self.client, bundle, run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            self._experiments[name] = self._create_experiment(name) if found is None else found.experiment_id
            if found is not None and found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
        return self._experiments[name]

    def _create_experiment(self, name: str) -> str:
        location = None if is_server(self.uri) else (self.artifact_root / name).resolve().as_uri()
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException as problem:
            if problem.error_code != PRESENT:
                raise
        return str(self.client.get_experiment_by_name(name).experiment_id)  # another process was first

    def _experiment_of(self, run_id: str) -> str:
        if run_id not in self._experiments:
            self._experiments[run_id] = self.client.get_run(run_id).info.experiment_id
        return self._experiments[run_id]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = "none" if value is None else str(value)
    return flat


def _dataset(job: JobInfo) -> DatasetInput:
    source = json.dumps({"uri": Path(job.folder).as_uri() if Path(job.folder).is_absolute() else job.folder})
    profile = json.dumps({"images": job.images})
    digest = job.dataset_fingerprint[:36]  # MLflow's limit
    data = Dataset(job.subject, digest, source_type="local", source=source, profile=profile)
    return DatasetInput(data, [InputTag("mlflow.data.context", "training")])
