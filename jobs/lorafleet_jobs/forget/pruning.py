"""Looks at what lies under a home, and deletes what `prunable` chose of it. MLflow is asked first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet.bundle.disk_cache import BundleCache
from lorafleet.home import Home
from lorafleet.removal.receipt import Receipt
from lorafleet.removal.versions import remove_folder
from lorafleet.tracking import MlflowRegistry
from lorafleet.util.files import size_of
from lorafleet_jobs.forget.forgetting import store_of
from lorafleet_jobs.forget.prunable import CACHED, CLASS_IMAGES, SCRATCH, Lying, Seen, prunable
from lorafleet_jobs.submission.driver_lease import has_driver
from lorafleet_jobs.train.data.cache_files import try_only_process

NOT_OURS = ("artifacts", "ray")
"""Folders of the home that MLflow and Ray write."""


@dataclass(frozen=True)
class Pruned:
    """What was deleted, and what was in use by then, a line each."""

    receipt: Receipt
    kept: tuple[str, ...]


def find_prunable(home: Home, days: float) -> dict[str, list[Lying]]:
    """By kind what may go. Changes nothing. Raises UnreachableError if MLflow does not answer."""
    store = store_of(home)
    submissions = [] if store is None else [row.id for row in store.submissions()]
    registry = MlflowRegistry(home.tracking_uri, home.adapter_cache)
    cache = BundleCache(home.adapter_cache)
    seen = Seen(
        rows=[] if store is None else [row for one in submissions for row in store.jobs(one)],
        driven=[] if store is None else [one for one in submissions if has_driver(store, one)],
        published=registry.published_jobs(),
        unregistered=registry.unregistered(),
        checkpoints=_lying(_visible(home.checkpoints)),
        bundles=_lying(_visible(home.bundles)),
        photographs=_lying(_visible(home.photographs)),
        cached=[Lying(home.adapter_cache / one.digest, one.bytes, one.used) for one in cache.entries()],
        latents=_lying((home.cache / "latents").glob("*/[!.]*.safetensors")),
        class_images=_lying(path for path in _visible(home.cache / "prior") if path.is_dir()),
        runs=_lying(_visible(home.ray_temp)),
        scratch=_lying(_scratch(home.root)),
    )
    return prunable(seen, days, time.time())


def prune(home: Home, found: Mapping[str, Sequence[Lying]]) -> Pruned:
    """Deletes what was found, but for what somebody has used since, or is using now."""
    receipt, kept = Receipt(), list[str]()
    cache = BundleCache(home.adapter_cache)
    for kind, lying in found.items():
        for one in lying:
            if kind == CACHED:
                gone = cache.remove(one.path.name)
            elif kind == CLASS_IMAGES:
                with try_only_process(one.path.with_name(f"{one.path.name}.lock")) as alone:
                    gone = alone and _remove(one)
            else:
                gone = _remove(one)
            if gone:
                receipt.add(kind, 1, one.bytes)
            else:
                kept.append(f"{one.path} is in use, and stays")
    return Pruned(receipt, tuple(kept))


def _remove(lying: Lying) -> bool:
    """Deletes a file or folder that is as it was seen; one that is gone already counts as deleted."""
    path = lying.path
    if path.exists() and _used(path) > lying.used:
        return False
    if path.is_dir():
        remove_folder(path, "", Receipt())
    else:
        path.unlink(missing_ok=True)
    return True


def _lying(paths: Iterable[Path]) -> list[Lying]:
    return [Lying(path, size_of(path), _used(path)) for path in paths]


def _visible(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*")) if folder.is_dir() else []


def _scratch(root: Path) -> list[Path]:
    """What processes began to write and did not rename, not counting what lies in such a folder."""
    found = []
    for folder in _visible(root):
        if folder.is_dir() and folder.name not in NOT_OURS:
            found += [path for path in folder.rglob(".*") if SCRATCH.fullmatch(path.name)]
    return [path for path in found if not any(parent in found for parent in path.parents)]


def _used(path: Path) -> float:
    """When a file, or any file in a folder, was last read or written, as far as the file system notes it."""
    stats = [file.stat() for file in (path, *path.rglob("*")) if file.is_file()] or [path.stat()]
    return max(max(stat.st_atime, stat.st_mtime) for stat in stats)
