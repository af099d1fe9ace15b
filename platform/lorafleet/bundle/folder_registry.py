"""Adapters in folders: the registry for bundles that lie on this machine and in no MLflow.

Knows the bundle's card. Refuses to know weights: a bundle is verified when it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lorafleet.bundle.bundle import CARD, AdapterCard
from lorafleet.bundle.disk_cache import CacheStats
from lorafleet.bundle.ports import CHAMPION, AdapterVersion
from lorafleet.config.strict import parse
from lorafleet.errors import BundleError, NotFoundError


def version_of(path: Path) -> AdapterVersion:
    """A bundle folder as version 1 of the adapter that its card names; BundleError if it has no valid card."""
    where = path / CARD
    try:
        data = json.loads(where.read_text())
    except (OSError, ValueError) as problem:
        raise BundleError(f"{path}: no readable {CARD} ({problem}); give the folder of a finished adapter") from None
    card = parse(AdapterCard, data, str(where), BundleError)
    return AdapterVersion(
        name=card.name,
        version=1,
        aliases=(CHAMPION,),
        base=card.base,
        triggers=tuple(trigger.trigger for trigger in card.triggers),
        path=path.resolve(),
        run_id=card.run_id,
        base_fingerprint=card.base_fingerprint,
    )


@dataclass(frozen=True)
class FolderRegistry:
    """Every bundle directly under `root`, each as version 1 and champion of its name."""

    root: Path

    def list(self) -> list[AdapterVersion]:
        """The bundles by name; folders without a card are not bundles."""
        adapters = [version_of(card.parent) for card in sorted(self.root.glob(f"[!.]*/{CARD}"))]
        return sorted(adapters, key=lambda adapter: adapter.name)

    def resolve(self, name: str, version: str | None = None) -> AdapterVersion:
        """The bundle of that name; NotFoundError says what there is."""
        adapters = self.list()
        for adapter in adapters:
            if adapter.name == name and version in (None, str(adapter.version), *adapter.aliases):
                return adapter
        asked = name if version is None else f"{name}@{version}"
        names = ", ".join(adapter.name for adapter in adapters) or "none"
        raise NotFoundError(
            f"adapter {asked!r} is not in {self.root}; there are: {names}, each as version 1 ({CHAMPION})"
        )

    def hold(self, adapter: AdapterVersion) -> AbstractContextManager[bool]:
        """Whether the bundle is still there; nothing drops folders, so nothing is locked."""
        return nullcontext((adapter.path / CARD).is_file())

    def gone(self, adapters: Collection[AdapterVersion]) -> tuple[AdapterVersion, ...]:
        """Those of these bundles that are not there any more."""
        return tuple(adapter for adapter in adapters if not (adapter.path / CARD).is_file())

    def drop_unregistered(self) -> None:
        """Nothing: folders are served without a copy."""

    def cache_stats(self) -> CacheStats:
        """Zeros: folders are served without a copy."""
        return CacheStats()
