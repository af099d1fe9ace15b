"""Adapters by name: registered models of MLflow, one version a job, `champion` for whoever names no version.

Who is champion is settled in `promotion`.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mlflow.exceptions import MlflowException

from lorafleet.bundle.bundle import CARD, Bundle, sha256_of
from lorafleet.bundle.disk_cache import CAPACITY, BundleCache, CacheStats, Verifier
from lorafleet.bundle.ports import CHAMPION, AdapterVersion
from lorafleet.config.promotion_policy import Promotion
from lorafleet.errors import BundleError, NotFoundError, UnreachableError
from lorafleet.tracking.client import PRESENT, REFUSED, connect, reaching
from lorafleet.tracking.description import describe
from lorafleet.tracking.facts import DIGEST, FACTS, facts_of
from lorafleet.tracking.presence import is_open, pages, registered_jobs, still_registered, unregistered
from lorafleet.tracking.promotion import alias_of_base, change_tags, find_version, is_unchanged, score_of, settle
from lorafleet.util.addresses import sqlite_file

ARTIFACT = "adapter"
log = logging.getLogger(__name__)


def register(client: Any, bundle: Bundle, run_id: str, policy: Promotion | None = "first") -> AdapterVersion:
    """Creates the version of a job's bundle and settles whether it is champion, unless that has been done before.

    Without a policy that is left to whoever knows the other points of its sweep.
    """
    card = bundle.card
    version = _version_of_job(client, card.name, card.job_id)
    if version is None:
        _ensure_model(client, card.name)
        facts = {
            "base_fingerprint": card.base_fingerprint, "triggers": [trigger.trigger for trigger in card.triggers],
            "path": str(bundle.path.resolve()), DIGEST: sha256_of(bundle.path / CARD),
            "artifact_uri": f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACT}",
        }  # fmt: skip
        tags = {"base": card.base, "job_id": card.job_id, FACTS: json.dumps(facts), **change_tags(card.metrics)}
        source = f"runs:/{run_id}/{ARTIFACT}"
        version = client.create_model_version(card.name, source, run_id=run_id, tags=tags, await_creation_for=0)
    describe(client, version, card, run_id)
    standing = ""
    if version.tags.get("published") != "true":  # new, or its registration was interrupted
        standing = "" if policy is None else settle(client, version, policy)
        client.set_model_version_tag(card.name, version.version, "published", "true")
    return replace(_with_path(version, _aliases(client, card.name), bundle.path), standing=standing)


def published(client: Any, name: str, job_id: str) -> AdapterVersion | None:
    """The version a job has registered completely, or None."""
    version = _version_of_job(client, name, job_id)
    if version is None or version.tags.get("published") != "true":
        return None
    return _with_path(version, _aliases(client, name), Path(facts_of(version)["path"]))


def aliases_of(client: Any, names: Collection[str]) -> dict[str, dict[str, int]]:
    """The aliases of these registered names, each with its version."""
    return {
        model.name: {alias: int(number) for alias, number in dict(model.aliases).items()}
        for model in pages(client.search_registered_models)
        if model.name in names
    }


@dataclass
class MlflowRegistry:
    """`lorafleet.bundle.ports.AdapterRegistry` on MLflow: finds versions and brings their bundles to this machine."""

    uri: str
    cache: Path
    """Where bundles are kept that do not lie on this machine already."""
    capacity: int = CAPACITY
    """Bytes of such bundles."""
    base: str | None = None
    """Whose champions are wanted where a name has adapters for several bases."""
    _local: Verifier = field(default_factory=Verifier)

    @cached_property
    def bundles(self) -> BundleCache:
        """The bundles fetched to this machine."""
        return BundleCache(self.cache, self.capacity)

    @cached_property
    def client(self) -> Any:
        """The connection, made when it is first needed: making one creates a missing database."""
        return connect(self.uri)

    def list(self) -> list[AdapterVersion]:
        """Every adapter version by name, newest first; `path` is where it lies, or will lie once resolved."""
        if self._is_empty():
            return []
        with reaching(self.uri):
            versions = [version for version in pages(self.client.search_model_versions) if "job_id" in version.tags]
            aliases = {model.name: dict(model.aliases) for model in pages(self.client.search_registered_models)}
        versions.sort(key=lambda version: (version.name, -int(version.version)))
        return [_with_path(version, aliases.get(version.name, {}), self._place(version)) for version in versions]

    def resolve(self, name: str, version: str | None = None) -> AdapterVersion:
        """The version asked for (a number, an alias, None for `champion`), its bundle here and verified.

        Raises NotFoundError that lists what there is, BundleError if the bundle cannot be trusted.
        """
        wanted = version or CHAMPION
        with reaching(self.uri):
            registered = None if self._is_empty() else self._find(name, wanted)
            if registered is not None and wanted == CHAMPION and self.base not in (None, registered.tags.get("base")):
                registered = self._find(name, alias_of_base(str(self.base))) or registered
        if registered is None:
            raise NotFoundError(self._no_such(name, wanted))
        with reaching(self.uri):
            aliases = _aliases(self.client, name)
            path = self._fetch(registered)
        return _with_path(registered, aliases, path)

    def hold(self, adapter: AdapterVersion) -> AbstractContextManager[bool]:
        """Keeps a resolved adapter's bundle from being dropped inside the block; says whether it is there."""
        if adapter.path.parent == self.cache:
            return self.bundles.pinned(adapter.path.name)
        return nullcontext((adapter.path / CARD).is_file())

    def gone(self, adapters: Collection[AdapterVersion]) -> tuple[AdapterVersion, ...]:
        """Those of these versions that are registered no longer, which leave the cache. Raises UnreachableError."""
        with reaching(self.uri):
            present = set() if self._is_empty() else still_registered(self.client, adapters)
        missing = tuple(one for one in adapters if (one.name, one.version, one.run_id) not in present)
        for adapter in missing:
            if adapter.path.parent == self.cache:
                self.bundles.remove(adapter.path.name)
        return missing

    def published_jobs(self) -> set[str]:
        """The ids of the jobs that have a registered version. Raises UnreachableError."""
        if self._is_empty():
            return set()
        with reaching(self.uri):
            return registered_jobs(self.client)

    def has_run(self, run_id: str) -> bool:
        """Whether there is a run that is not marked as deleted. Raises UnreachableError."""
        with reaching(self.uri):
            return not self._is_empty() and is_open(self.client, run_id)

    def drop_unregistered(self) -> None:
        """Removes from the cache what no registered version is, unless it is in use. Raises UnreachableError."""
        for digest in self.unregistered():
            self.bundles.remove(digest)

    def unregistered(self) -> tuple[str, ...]:
        """The digests in the cache of bundles that no registered version has. Raises UnreachableError."""
        cards = self.bundles.jobs()
        if not cards or self._is_empty():
            return (*cards,)
        with reaching(self.uri):
            return unregistered(self.client, cards)

    def cache_stats(self) -> CacheStats:
        """What the disk cache did and holds."""
        return self.bundles.stats()

    def _is_empty(self) -> bool:
        database = sqlite_file(self.uri)  # asking MLflow would create a missing one, which takes seconds
        return database is not None and not database.exists()

    def _find(self, name: str, wanted: str) -> Any:
        version = find_version(self.client, name, wanted)
        return version if version is not None and "job_id" in version.tags else None

    def _no_such(self, name: str, wanted: str) -> str:
        registered = self.list()
        own = [adapter for adapter in registered if adapter.name == name]
        if own:
            versions = ", ".join(str(adapter.version) for adapter in own)
            aliases = ", ".join(sorted({alias for adapter in own for alias in adapter.aliases})) or "none"
            return f"adapter {name!r} has no version or alias {wanted!r}; versions: {versions}; aliases: {aliases}"
        names = ", ".join(sorted({adapter.name for adapter in registered})[:20])
        remedy = f"there are: {names}" if names else "submit a manifest, or import a file: lorafleet adapters import"
        return f"there is no adapter {name!r}; {remedy}"

    def _own(self, version: Any) -> tuple[Path, ...]:
        """Folders of this machine where the bundle was put when it was published, the artifact's first."""
        facts = facts_of(version)
        places = (_local_path(facts.get("artifact_uri", "")), Path(facts.get("path", "")))
        return tuple(path for path in places if path is not None and path.is_absolute() and path.is_dir())

    def _place(self, version: Any) -> Path:
        cached = self.cache / str(facts_of(version).get(DIGEST, f"{version.name}@{version.version}"))
        return next(iter(self._own(version)), cached)

    def _fetch(self, version: Any) -> Path:
        """The verified bundle of a version, downloaded if no intact copy lies here."""
        for place in self._own(version):
            try:
                if _is_of(self._local.bundle(place), version):
                    return place
            except BundleError as problem:
                log.warning("%s; looking for another copy", problem)
        with _keeping(self.cache):
            bundle = self.bundles.get(self._digest(version), lambda folder: self._download(version, ARTIFACT, folder))
        if not _is_of(bundle, version):
            raise BundleError(
                f"adapter {version.name}@{version.version}: the registry holds the bundle of job "
                f"{bundle.card.job_id}, not of {version.tags['job_id']}; train it again"
            )
        return bundle.path

    def _digest(self, version: Any) -> str:
        """Of the version's card; from the card itself where the version was registered without it."""
        if DIGEST in (facts := facts_of(version)):
            return str(facts[DIGEST])
        with tempfile.TemporaryDirectory() as folder:
            return sha256_of(self._download(version, f"{ARTIFACT}/{CARD}", Path(folder)))

    def _download(self, version: Any, artifact: str, folder: Path) -> Path:
        try:
            return Path(self.client.download_artifacts(version.run_id, artifact, str(folder)))
        except MlflowException as problem:
            if problem.error_code not in REFUSED:
                raise
            raise NotFoundError(
                f"adapter {version.name}@{version.version} is registered, but its bundle is gone from run "
                f"{version.run_id} ({str(problem).splitlines()[0]}); train it again"
            ) from None


def _is_of(bundle: Bundle, version: Any) -> bool:
    """Whether a bundle is the registered one, and not one of the same job trained again."""
    if DIGEST in (facts := facts_of(version)):
        return bool(sha256_of(bundle.path / CARD) == facts[DIGEST])
    return bool(bundle.card.job_id == version.tags["job_id"])


@contextmanager
def _keeping(cache: Path) -> Iterator[None]:
    """Turns a full or forbidden disk into UnreachableError: asking again helps once there is room."""
    try:
        yield
    except OSError as problem:
        if problem.errno is None or isinstance(problem, ConnectionError | TimeoutError):
            raise
        raise UnreachableError(
            f"the adapter cannot be kept in {cache} ({problem.strerror}); make room or set another cache folder"
        ) from None


def _ensure_model(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as problem:
        if problem.error_code != PRESENT:
            raise


def _version_of_job(client: Any, name: str, job_id: str) -> Any:
    versions = pages(lambda **page: client.search_model_versions(f"name = '{name}'", **page))
    return next((version for version in versions if version.tags.get("job_id") == job_id), None)


def _aliases(client: Any, name: str) -> dict[str, str]:
    return dict(client.get_registered_model(name).aliases)


def _local_path(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") and parts.path else None


def _triggers(version: Any) -> tuple[str, ...]:
    said = facts_of(version).get("triggers", [])
    return tuple(json.loads(said) if isinstance(said, str) else said)  # JSON in a tag of its own, as it once was


def _with_path(version: Any, aliases: dict[str, str], path: Path) -> AdapterVersion:
    number = int(version.version)
    return AdapterVersion(
        name=version.name,
        version=number,
        aliases=tuple(sorted(alias for alias, at in aliases.items() if int(at) == number)),
        base=version.tags.get("base", ""),
        triggers=_triggers(version),
        path=path,
        run_id=version.run_id,
        score=score_of(version),
        base_fingerprint=str(facts_of(version).get("base_fingerprint", "")),
        unchanged=is_unchanged(version),
    )
