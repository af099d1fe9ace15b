"""Adapters in folders: the registry for bundles that lie on this machine and in no MLflow.

Knows the bundle's card. Refuses to know weights: whether a bundle can be trusted is asked when it is loaded.
"""

from __future__ import annotations

import json
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
    )


@dataclass(frozen=True)
class FolderRegistry:
    """Every bundle directly under `root`, each as version 1 and champion of its name."""

    root: Path

    def list(self) -> list[AdapterVersion]:
        """The bundles by name; folders without a card are not bundles."""
        found = [version_of(card.parent) for card in sorted(self.root.glob(f"[!.]*/{CARD}"))]
        return sorted(found, key=lambda adapter: adapter.name)

    def resolve(self, name: str, version: str | None = None) -> AdapterVersion:
        """The bundle of that name; NotFoundError says what there is."""
        found = self.list()
        for adapter in found:
            if adapter.name == name and version in (None, str(adapter.version), *adapter.aliases):
                return adapter
        asked = name if version is None else f"{name}@{version}"
        known = ", ".join(adapter.name for adapter in found) or "none"
        raise NotFoundError(
            f"adapter {asked!r} is not in {self.root}; there are: {known}, each as version 1 ({CHAMPION})"
        )

    def hold(self, adapter: AdapterVersion) -> AbstractContextManager[bool]:
        """Whether the bundle is still there; folders are nobody's to drop."""
        return nullcontext((adapter.path / CARD).is_file())

    def cache_stats(self) -> CacheStats:
        """Nothing: folders are served where they lie."""
        return CacheStats()
