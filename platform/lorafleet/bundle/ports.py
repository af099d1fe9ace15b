"""Interfaces between packages: what training and serving need from tracking and from the registry of adapters.

Protocols only. `lorafleet.tracking` has the MLflow side; `Null*` are the null objects for when it is off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

    from lorafleet.bundle.disk_cache import CacheStats


CHAMPION = "champion"
"""The alias of the version that is used where none is named."""
CHALLENGER = "challenger"
"""The alias of the newest version that did not become champion."""


RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
"""How a run stands, in MLflow's words."""


@dataclass(frozen=True)
class RunEnd:
    """How a run stands, or ended."""

    status: RunStatus
    error: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


EntryKind = Literal["attempt", "metric", "picture", "end"]


@dataclass(frozen=True)
class RunEntry:
    """One thing that a run records, once for each kind, key and step."""

    kind: EntryKind
    key: str
    """Of a metric or picture; empty for `attempt` and `end`."""
    step: int
    """Of the training; for `attempt` and `end` the number of the attempt."""
    value: str = ""
    """A metric's number as `repr` writes it, an end's `RunEnd` or a picture's `Caption` as JSON, or nothing."""
    picture: bytes | None = None
    """PNG."""
    milliseconds: int = 0
    """Since the epoch, when it was recorded first."""


Shown = Literal["adapter", "words only", "base", "by step"]
"""What made a validation picture: the trained adapter, its learned words at LoRA scale 0, the base asked for any of the
class, or the adapter as it was at a step."""


@dataclass(frozen=True)
class Caption:
    """What a validation picture shows."""

    name: str
    """Of its prompt, the same for all subjects."""
    prompt: str
    shows: Shown
    seed: int


class JobTracker(Protocol):
    """Records one job's numbers and pictures. No method may stop a training."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records one step's numbers in one call."""

    def image(self, key: str, step: int, image: Image, caption: Caption | None = None) -> None:
        """Records a picture under a key that is the same for all jobs, so that they compare.

        One with a caption also has a row in the run's table of pictures.
        """


@dataclass(frozen=True)
class Score:
    """What a version was worth when it was measured last; more is better."""

    metric: str
    value: float


@dataclass(frozen=True)
class AdapterVersion:
    """One registered version of an adapter."""

    name: str
    version: int
    aliases: tuple[str, ...]
    base: str
    triggers: tuple[str, ...]
    path: Path
    """Where the bundle lies on this machine."""
    run_id: str | None = None
    score: Score | None = None
    """What it was worth when it was evaluated last."""
    base_fingerprint: str = ""
    """Identifies the base's weights; empty where that was not recorded."""
    unchanged: bool = False
    """Whether its pictures were as before training when it was registered."""
    standing: str = field(default="", compare=False)
    """Of one that was registered just now: whether it is champion, and why."""


class AdapterRegistry(Protocol):
    """Where adapters are found by name."""

    def list(self) -> list[AdapterVersion]:
        """Every registered version, newest version of each name first."""

    def resolve(self, name: str, version: str | None = None) -> AdapterVersion:
        """The version asked for: a number, an alias, or None for `champion`; NotFoundError says what there is."""

    def hold(self, adapter: AdapterVersion) -> AbstractContextManager[bool]:
        """Keeps a resolved bundle from being dropped inside the block; says at once whether it is still there."""

    def gone(self, adapters: Collection[AdapterVersion]) -> tuple[AdapterVersion, ...]:
        """Those of these versions that are registered no longer; no copy of them stays in this machine's cache."""

    def drop_unregistered(self) -> None:
        """Removes from this machine's cache what no registered version is, whoever fetched it."""

    def cache_stats(self) -> CacheStats:
        """What the cache on this machine's disk did and holds."""
