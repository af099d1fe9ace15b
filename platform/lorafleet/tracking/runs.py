"""Runs: one parent a submission, one child a job, and the bundle that a job leaves.

Experiment = manifest name. Knows which runs there are, how they stand and what they record; refuses to know where
entries wait while MLflow is away.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from lorafleet.bundle.bundle import Bundle
from lorafleet.bundle.ports import AdapterVersion, RunEnd, RunEntry, Score
from lorafleet.config.promotion_policy import Promotion
from lorafleet.errors import NotFoundError, UnreachableError
from lorafleet.tracking import description, flavour, promotion, registry
from lorafleet.tracking.client import PRESENT, connect, reaching, reaching_run
from lorafleet.tracking.jobinfo import JobInfo
from lorafleet.tracking.links import NOTE, Child, child_note, made_note, named, parent_note
from lorafleet.tracking.sending import RunWriter, end_run
from lorafleet.util.machine import this_user
from lorafleet.util.tracking_server import is_server

OPEN = ("RUNNING", "SCHEDULED")
PARENT = "mlflow.parentRunId"
SUBMISSION = "submission"
HOME = "lorafleet.home"
NO_TAGS: Mapping[str, str] = MappingProxyType({})
VERSION = "adapter_version"
SHOWN = "lorafleet.shown"
"""The parent's tag with the runs that its table shows, as JSON, where they are not simply its children."""
IMPORTS = "imports"
RECIPE = "recipe.yaml"
USER = "mlflow.user"
"""The tag that MLflow's tables show as who made a run."""
PAGE = 1000
log = logging.getLogger(__name__)


@dataclass
class MlflowTracking:
    """MLflow at one address. Methods raise UnreachableError when it does not answer."""

    uri: str
    artifact_root: Path
    """Where artifacts lie when `uri` is a database; a server decides for itself."""
    _experiments: dict[str, str] = field(default_factory=dict)
    _parents: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def client(self) -> Any:
        """The connection, made when it is first needed: making one creates a missing database."""
        return connect(self.uri)

    def start_submission(self, name: str, submission: str, params: Mapping[str, str], manifest_yaml: str) -> str:
        """Opens the parent run in the experiment `name`, with the manifest as an artifact; returns its run id."""
        with reaching(self.uri):
            mine = {SUBMISSION: submission, HOME: f"{socket.gethostname()}:{self.artifact_root.resolve()}"}
            parent = self._opened(self._experiment(name), f"{name} {submission[:8]}", mine)
            self.client.log_batch(parent, params=[Param(key, value) for key, value in params.items()])
            self.client.log_text(parent, manifest_yaml, "manifest.yaml")
        return parent

    def start_job(self, parent: str, job: JobInfo) -> str:
        """Opens a child run that waits for its lane: tags, parameters, recipe, data set; returns its run id."""
        with reaching(self.uri):
            above = self._parent(parent)
            tags = {
                "subject": job.subject, "adapter": job.adapter,
                NOTE: child_note(above.experiment_id, parent, above.run_name),
            }  # fmt: skip
            child = self._opened(above.experiment_id, job.name, {"job_id": job.job_id, PARENT: parent}, tags)
            self.client.log_batch(child, params=[Param(key, value) for key, value in job.params.items()])
            self.client.log_text(child, job.recipe_yaml, RECIPE)
            self.client.log_inputs(child, [job.dataset])
            self.client.update_run(child, status="SCHEDULED")
        return child

    def start_import(self, name: str, job_id: str, tags: Mapping[str, str]) -> str:
        """Opens the run of an adapter that was not trained here, in the experiment `imports`; returns its run id."""
        with reaching(self.uri):
            return self._opened(self._experiment(IMPORTS), name, {"job_id": job_id}, tags)

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow has a run that nobody has deleted. Raises UnreachableError."""
        try:
            with reaching_run(self.uri, run_id):
                return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except NotFoundError:
            return False

    def check_run(self, run_id: str) -> None:
        """Raises NotFoundError if MLflow answers that it has no such run; an outage passes, it may be over in time."""
        try:
            with reaching_run(self.uri, run_id):
                self.client.get_run(run_id)
        except UnreachableError as problem:
            log.warning("%s", problem)

    def send(self, run_id: str, entries: Sequence[RunEntry]) -> None:
        """Writes entries into a run; doing it again adds nothing. What MLflow refuses is left out with a warning."""
        with reaching(self.uri):
            RunWriter(self.client, run_id).write(entries)

    def log_metrics(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Records numbers of this moment under one step. NotFoundError if there is no such run."""
        now = time.time_ns() // 1_000_000
        with reaching_run(self.uri, run_id):
            self.client.log_batch(run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def finish(self, run_id: str, end: RunEnd) -> None:
        """Closes a run. NotFoundError if there is no such run."""
        with reaching_run(self.uri, run_id):
            end_run(self.client, run_id, end)

    def finish_if_open(self, run_id: str, end: RunEnd) -> None:
        """Closes a run that nobody closed; one that has ended already stays as it ended."""
        with reaching(self.uri):
            if self.client.get_run(run_id).info.status not in OPEN:
                return
        self.finish(run_id, end)

    def reap(self, parent: str, ends: Mapping[str, RunEnd]) -> int:
        """Closes the child runs of a submission that nobody closed; returns how many.

        `ends` says how the run of each job stands. A run that is open though its job has ended ends as the job did; one
        that no job holds ends as killed.
        """
        closed = 0
        for run in self._children(parent):
            end = ends.get(run.info.run_id, RunEnd("KILLED", "no job holds this run"))
            if run.info.status in OPEN and end.status not in OPEN:
                self.finish(run.info.run_id, end)
                closed += 1
        return closed

    def link(self, parent: str, states: Mapping[str, str]) -> None:
        """Writes the ways between a submission's run, its jobs' runs and their versions into their descriptions.

        `states` says of each job's run, that of another submission's among them, how the job stands.
        """
        above = self._parent(parent)
        runs = {run.info.run_id: run for run in self._children(parent)}
        with reaching(self.uri):
            known = [(runs.get(run_id) or self.client.get_run(run_id), state) for run_id, state in states.items()]
        children = [self._linked(run, above, state) for run, state in known]
        with reaching(self.uri):
            note = RunTag(NOTE, parent_note(above.experiment_id, parent, children))
            shown = RunTag(SHOWN, json.dumps(named(above.experiment_id, children)))
            self.client.log_batch(parent, tags=[note, shown])

    def log_bundle(self, run_id: str, path: Path) -> None:
        """Uploads the folder of a bundle under `adapter/`, as a model that MLflow loads; twice changes nothing."""
        with reaching_run(self.uri, run_id):
            self.client.log_artifacts(run_id, str(path), registry.ARTIFACT)
            self.client.log_text(run_id, flavour.model_file(run_id), f"{registry.ARTIFACT}/{flavour.FILE}")

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Uploads a text as the artifact `name`, in place of the one before."""
        with reaching(self.uri):
            self.client.log_text(run_id, text, name)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """A run's numbers under a key, by step."""
        with reaching(self.uri):
            return sorted((point.step, point.value) for point in self.client.get_metric_history(run_id, key))

    def registered(self, adapter: str, job_id: str) -> AdapterVersion | None:
        """The version that a job has already published, if any."""
        with reaching(self.uri):
            return registry.published(self.client, adapter, job_id)

    def register(self, bundle: Bundle, run_id: str, policy: Promotion | None = "first") -> AdapterVersion:
        """Registers a bundle that `log_bundle` uploaded; once a job, however often called.

        `policy` says whether it becomes champion; without one that is settled later (`settle`).
        """
        with reaching_run(self.uri, run_id):
            return registry.register(self.client, bundle, run_id, policy)

    def settle(self, name: str, version: int, policy: Promotion, score: Score | None = None) -> str:
        """Makes a registered version champion or challenger; returns a sentence about it. Raises UnreachableError."""
        with reaching(self.uri):
            said: str = promotion.settle_version(self.client, name, version, policy, score)
            description.rescore(self.client, name, version)
        return said

    def write_score(self, name: str, version: int, score: Score) -> None:
        """Writes a score on a registered version, in place of the one before, and all of its run's into its text.

        Raises UnreachableError.
        """
        with reaching(self.uri):
            promotion.write_score(self.client, name, version, score)
            description.rescore(self.client, name, version)

    def promote(self, name: str, version: int, alias: str | None = None) -> str:
        """Points an alias at a version for a person; returns a sentence. Raises NotFoundError, RequestError."""
        with reaching(self.uri):
            said: str = promotion.promote(self.client, name, version, alias)
        return said

    def demote(self, name: str, alias: str) -> str:
        """Takes an alias away; returns a sentence. Raises NotFoundError."""
        with reaching(self.uri):
            said: str = promotion.demote(self.client, name, alias)
        return said

    def aliases(self, names: Collection[str]) -> dict[str, dict[str, int]]:
        """The aliases of registered names, each with its version. Raises UnreachableError."""
        with reaching(self.uri):
            return registry.aliases_of(self.client, names)

    def _opened(
        self, experiment: str, name: str, mine: Mapping[str, str], tags: Mapping[str, str] = NO_TAGS
    ) -> str:  # fmt: skip
        """A new run; or the one of this name, with the tags `mine`, that a driver opened and died before it said so."""
        key, value = next(iter(mine.items()))
        for run in self.client.search_runs([experiment], f"tags.`{key}` = '{value}'", max_results=PAGE):
            if run.info.status in OPEN and run.info.run_name == name and mine.items() <= run.data.tags.items():
                return str(run.info.run_id)
        tags = {"mlflow.source.name": "lorafleet", USER: this_user(), **mine, **tags}
        return str(self.client.create_run(experiment, run_name=name, tags=tags).info.run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            experiment = self.client.get_experiment_by_name(name)
            self._experiments[name] = self._create_experiment(name) if experiment is None else experiment.experiment_id
            if experiment is not None and experiment.lifecycle_stage == "deleted":
                self.client.restore_experiment(experiment.experiment_id)
        return self._experiments[name]

    def _create_experiment(self, name: str) -> str:
        location = None if is_server(self.uri) else (self.artifact_root / name).resolve().as_uri()
        try:
            return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException as problem:
            if problem.error_code != PRESENT:
                raise
        return str(self.client.get_experiment_by_name(name).experiment_id)  # another process was first

    def _parent(self, run_id: str) -> Any:
        if run_id not in self._parents:
            with reaching(self.uri):
                self._parents[run_id] = self.client.get_run(run_id).info
        return self._parents[run_id]

    def _children(self, parent: str) -> list[Any]:
        """The jobs' runs of a submission, all pages of them."""
        experiment, wanted = self._parent(parent).experiment_id, f"tags.`{PARENT}` = '{parent}'"
        children: list[Any] = []
        token = None
        with reaching(self.uri):
            while token is not None or not children:
                page = self.client.search_runs([experiment], wanted, max_results=PAGE, page_token=token)
                children += page
                if not (token := page.token):
                    break
        return children

    def _linked(self, run: Any, above: Any, state: str) -> Child:
        """A job's run for its submission's table; its own description names the version it made."""
        run_id, tags = run.info.run_id, run.data.tags
        reused = tags.get(PARENT) != above.run_id
        adapter, version = tags.get("adapter", ""), tags.get(VERSION)
        if version is None and run.info.status == "FINISHED" and not reused:
            with reaching(self.uri):
                made = self.client.search_model_versions(f"run_id = '{run_id}'")
                if made:
                    version = str(made[0].version)
                    back = child_note(above.experiment_id, above.run_id, above.run_name)
                    note = made_note(back, run_id, adapter, version)
                    self.client.log_batch(run_id, tags=[RunTag(VERSION, version), RunTag(NOTE, note)])
        return Child(run_id, run.info.experiment_id, run.info.run_name, state, adapter, version, reused)
