"""Removes registered versions wherever they lie: MLflow's artifacts, the home's bundles, the cache, the registry.

In an order in which a second call finishes what a crash left: whatever is still registered is still found by name, so
the registration goes last, and before it everything from which a bundle could be fetched again.
"""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorafleet.bundle.disk_cache import BundleCache
from lorafleet.errors import BusyError
from lorafleet.home import Home
from lorafleet.removal.receipt import Receipt
from lorafleet.util.files import size_of

if TYPE_CHECKING:
    from lorafleet.tracking.removal import MlflowRemoval, Registered

JOB_ID = re.compile(r"\w+")
WAIT_SECONDS = 60.0
"""How long a request that is reading a bundle is waited for."""
POLL_SECONDS = 0.2


def remove_versions(home: Home, mlflow: MlflowRemoval, versions: Sequence[Registered], receipt: Receipt) -> list[str]:
    """Removes versions; returns a sentence for each name that has no champion any more.

    Raises UnreachableError if MLflow does not answer and BusyError if a bundle is read for too long; the same call
    again goes on from there.
    """
    lost: dict[str, list[str]] = {}
    for version in versions:
        mlflow.remove_bundle(version, receipt)
        remove_bundles(home, [version.job_id], receipt)
        if aliases := mlflow.remove_version(version, receipt):
            lost.setdefault(version.name, []).extend(aliases)
    return [_succession(name, aliases, mlflow) for name, aliases in lost.items()]


def remove_bundles(home: Home, jobs: Collection[str], receipt: Receipt) -> None:
    """Deletes the bundles of jobs from the home and from its cache, half-written ones too. Raises BusyError.

    What is no job's id is passed over: the registry's tags may be anybody's, `..` among them.
    """
    for job in jobs:
        if JOB_ID.fullmatch(job):
            for folder in (home.bundles / job, *home.bundles.glob(f".{job}.*")):
                remove_folder(folder, "bundles", receipt)
    cache = BundleCache(home.adapter_cache)
    for digest in [digest for digest, job in cache.jobs().items() if job in jobs]:
        size = size_of(home.adapter_cache / digest)
        deadline = time.monotonic() + WAIT_SECONDS
        while not cache.remove(digest):
            if time.monotonic() > deadline:
                raise BusyError(
                    f"{home.adapter_cache / digest} has been read for {WAIT_SECONDS:.0f} s; repeat the command when "
                    "the requests of the server on it are done"
                )
            time.sleep(POLL_SECONDS)
        receipt.add("bundles in the cache", 1, size)


def remove_folder(folder: Path, kind: str, receipt: Receipt) -> None:
    """Deletes a folder if it is there; nobody ever sees it half deleted under its name."""
    if not folder.is_dir():
        return
    size = size_of(folder)
    gone = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    if gone != folder:
        folder.rename(gone)
    shutil.rmtree(gone)
    receipt.add(kind, 1, size)


def _succession(name: str, aliases: Sequence[str], mlflow: MlflowRemoval) -> str:
    left = mlflow.versions(name)
    held = " and ".join(dict.fromkeys(aliases))
    if not left:
        return f"{name} was {held}; no version of it is left"
    return f"{name} has no {held} now; choose one: lorafleet adapters promote {left[-1]}"
