"""Takes versions and runs out of MLflow for good: rows, and the artifacts that MLflow itself leaves behind.

Every method may be called again after a crash, and then does what was left. A database is emptied as `mlflow gc` does
it; a server only marks a run as deleted, so before that everything is taken from the run that a client can take, and
`mlflow gc` on the server does the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.dbmodels.models import SqlDataset, SqlInput, SqlInputTag

from lorafleet.errors import NotFoundError, UnreachableError
from lorafleet.removal.receipt import Receipt
from lorafleet.tracking.client import ABSENT, connect, reaching
from lorafleet.tracking.facts import DIGEST, facts_of
from lorafleet.tracking.links import NOTE
from lorafleet.tracking.presence import is_open, pages
from lorafleet.tracking.registry import ARTIFACT
from lorafleet.util.addresses import sqlite_file
from lorafleet.util.sqlite_space import rewrite
from lorafleet.util.tracking_server import is_server

JOB = "job_id"
BLANK = "forgotten"
"""What a run is called whose name would tell."""


@dataclass(frozen=True)
class Registered:
    """A version as it must be known to be removed."""

    name: str
    version: int
    job_id: str
    run_id: str
    digest: str
    """sha256 of its bundle's card; empty where it was registered without."""
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass
class MlflowRemoval:
    """Removals in MLflow at one address. Methods raise UnreachableError when it does not answer."""

    uri: str

    @cached_property
    def client(self) -> Any:
        """The connection, made when it is first needed: making one creates a missing database."""
        return connect(self.uri)

    @property
    def erases(self) -> bool:
        """Whether a run's rows go at once; a server keeps some until `mlflow gc` runs there."""
        return not is_server(self.uri)

    def names(self) -> list[str]:
        """Every registered name."""
        if self._is_empty():
            return []
        with reaching(self.uri):
            return sorted(model.name for model in pages(self.client.search_registered_models))

    def versions(self, name: str) -> list[Registered]:
        """The versions of a name that lorafleet registered, oldest first; none if there is no such name."""
        if self._is_empty():
            return []
        with reaching(self.uri):
            found = pages(lambda **page: self.client.search_model_versions(f"name = {_quoted(name)}", **page))
            aliases = dict(self.client.get_registered_model(name).aliases) if found else {}
        versions = [_registered(version, aliases) for version in found if JOB in version.tags]
        return sorted(versions, key=lambda version: version.version)

    def find(self, name: str, wanted: str | None = None) -> list[Registered]:
        """The version of a name that a number or an alias means, or all of them. NotFoundError says what is near."""
        versions = self.versions(name)
        if not versions:
            near = get_close_matches(name, self.names(), n=3)
            told = f"did you mean {' or '.join(near)}?" if near else "see: lorafleet adapters ls"
            raise NotFoundError(f"there is no adapter {name!r}; {told}")
        meant = [one for one in versions if wanted is None or wanted == str(one.version) or wanted in one.aliases]
        if not meant:
            there = ", ".join(f"@{one.version}" + "".join(f" ({alias})" for alias in one.aliases) for one in versions)
            raise NotFoundError(f"adapter {name!r} has no version or alias {wanted!r}; there are: {there}")
        return meant

    def remove_bundle(self, version: Registered, receipt: Receipt) -> None:
        """Deletes the bundle of a version from its run's artifacts."""
        with reaching(self.uri):
            run = self._run(version.run_id)
            if run is not None:
                self._remove_artifacts(run, ARTIFACT, "bundles in MLflow", receipt)
                if run.info.lifecycle_stage == "active" and "adapter_version" in run.data.tags:
                    self.client.delete_tag(version.run_id, "adapter_version")

    def remove_version(self, version: Registered, receipt: Receipt) -> tuple[str, ...]:
        """Deletes a version and what is written about it, and the name with the last one; returns its aliases.

        MLflow deletes the aliases with the version. The tags by which `promotion` knows its own choices go too, so that
        the next version of the name is settled as if this one had never been.
        """
        name, number = version.name, str(version.version)
        with reaching(self.uri):
            model = self.client.get_registered_model(name)
            for tag, value in model.tags.items():
                if tag.startswith("lorafleet.") and value == number:
                    self.client.delete_registered_model_tag(name, tag)
            for tag in self.client.get_model_version(name, number).tags:
                if tag != JOB:  # which a second attempt finds it by
                    self.client.delete_model_version_tag(name, number, tag)
            self.client.delete_model_version(name, number)
        self.remove_empty_name(name)
        receipt.add("registered versions")
        return version.aliases

    def remove_empty_name(self, name: str) -> None:
        """Deletes a registered name that has no version, and with it what MLflow keeps of its deleted versions."""
        if self._is_empty():
            return
        with reaching(self.uri):
            if self.client.search_model_versions(f"name = {_quoted(name)}", max_results=1):
                return
            if self.client.search_registered_models(f"name = {_quoted(name)}", max_results=1):
                self.client.delete_registered_model(name)

    def is_open(self, run_id: str) -> bool:
        """Whether there is a run that is not marked as deleted."""
        with reaching(self.uri):
            return is_open(self.client, run_id)

    def runs(self, jobs: Collection[str]) -> list[str]:
        """The ids of the runs of these jobs, of all their attempts, those that were deleted before too."""
        if self._is_empty() or not jobs:
            return []
        with reaching(self.uri):
            every = pages(lambda **page: self.client.search_experiments(view_type=ViewType.ALL, **page))
            experiments = [experiment.experiment_id for experiment in every]
            found = [
                run
                for job in sorted(jobs)
                for run in pages(
                    lambda job=job, **page: self.client.search_runs(
                        experiments, f"tags.`{JOB}` = '{job}'", run_view_type=ViewType.ALL, **page
                    )
                )
            ]
        return [str(run.info.run_id) for run in found]

    def remove_run(self, run_id: str, receipt: Receipt) -> None:
        """Deletes a run with its pictures, numbers and artifacts; nothing if there is no such run."""
        with reaching(self.uri):
            run = self._run(run_id)
            if run is None:
                return
            self._remove_artifacts(run, None, "files of runs in MLflow", receipt)
            if run.info.lifecycle_stage == "active":
                self._blank(run)
                self.client.delete_run(run_id)
                receipt.add("runs in MLflow")
            if self.erases:
                _erase(self.client, run_id)

    def remove_artifact(self, run_id: str, path: str) -> None:
        """Deletes one file of a run."""
        with reaching(self.uri):
            run = self._run(run_id)
            if run is not None:
                get_artifact_repository(run.info.artifact_uri, self.uri).delete_artifacts(path)

    def rewrite(self) -> bool:
        """Writes an SQLite database anew, without its deleted rows; False if it is in use. True for any other store."""
        file = sqlite_file(self.uri)
        return file is None or not file.exists() or rewrite(file)

    def _run(self, run_id: str) -> Any:
        try:
            return self.client.get_run(run_id)
        except MlflowException as problem:
            if problem.error_code != ABSENT:
                raise
            return None

    def _remove_artifacts(self, run: Any, path: str | None, kind: str, receipt: Receipt) -> None:
        repository = get_artifact_repository(run.info.artifact_uri, self.uri)
        sizes = [size for _, size in _files(repository, path)]
        if not sizes:
            return
        repository.delete_artifacts(path)
        if left := next(_files(repository, path), None):
            raise UnreachableError(
                f"MLflow at {self.uri} keeps {left[0]} of run {run.info.run_id} although it was asked to delete it; "
                "allow deletions in its artifact store, and repeat the command"
            )
        receipt.add(kind, len(sizes), sum(sizes))

    def _blank(self, run: Any) -> None:
        """Takes from a run what a client can take; the job's id stays, by which a second attempt finds it."""
        self.client.update_run(run.info.run_id, name=BLANK)
        for tag in run.data.tags:
            if tag != JOB and (tag == NOTE or not tag.startswith("mlflow.")):
                self.client.delete_tag(run.info.run_id, tag)

    def _is_empty(self) -> bool:
        database = sqlite_file(self.uri)
        return database is not None and not database.exists()


def _erase(client: Any, run_id: str) -> None:
    """Deletes the rows of a run that is marked as deleted, and the data set that no other run was trained on."""
    store = client._tracking_client.store
    store._hard_delete_run(run_id)  # as `mlflow gc` does, which has no other way either
    with store.ManagedSessionMaker(read_only=False) as session:
        inputs = session.query(SqlInput).filter(SqlInput.destination_id == run_id).all()
        for one in inputs:
            session.query(SqlInputTag).filter(SqlInputTag.input_uuid == one.input_uuid).delete()
            session.delete(one)
        session.flush()
        for data in {one.source_id for one in inputs}:
            if session.query(SqlInput).filter(SqlInput.source_id == data).first() is None:
                session.query(SqlDataset).filter(SqlDataset.dataset_uuid == data).delete()


def _files(repository: Any, path: str | None) -> Iterator[tuple[str, int]]:
    """Path and bytes of every file below a path."""
    for entry in repository.list_artifacts(path):
        if entry.is_dir:
            yield from _files(repository, entry.path)
        else:
            yield entry.path, int(entry.file_size or 0)


def _registered(version: Any, aliases: dict[str, str]) -> Registered:
    number = int(version.version)
    held = tuple(sorted(alias for alias, at in aliases.items() if int(at) == number))
    tags = version.tags
    return Registered(version.name, number, tags[JOB], str(version.run_id), facts_of(version).get(DIGEST, ""), held)


def _quoted(name: str) -> str:
    quote = '"' if "'" in name else "'"
    return f"{quote}{name}{quote}"
