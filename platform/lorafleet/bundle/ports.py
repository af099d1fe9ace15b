"""Interfaces between packages: what training and serving need from tracking and from the registry of adapters.

Protocols only. `lorafleet.tracking` has the MLflow side; `Null*` are the null objects for when it is off.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    """A metric's number as `repr` writes it, or an end's `RunEnd` as JSON."""
    picture: bytes | None = None
    """PNG."""
    milliseconds: int = 0
    """Since the epoch, when it was recorded first."""


class JobTracker(Protocol):
    """Records one job's numbers and pictures. No method may stop a training."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records one step's numbers in one call."""

    def image(self, key: str, step: int, image: Image) -> None:
        """Records a picture under a key that is the same for all jobs, so that they compare."""


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

    def cache_stats(self) -> CacheStats:
        """What the cache on this machine's disk did and holds."""
