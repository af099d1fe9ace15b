"""From a bundle on disk to a registered version, in an order in which every step may be repeated.

Bundle on disk, artifact in MLflow, version in the registry; the row in the store follows, and is its caller's.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lorafleet.bundle.bundle import CARD, Bundle, read_bundle
from lorafleet.bundle.change import unchanged_note
from lorafleet.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lorafleet.bundle.ports import AdapterVersion
    from lorafleet.config.promotion_policy import Promotion
    from lorafleet.tracking import MlflowTracking

log = logging.getLogger(__name__)


def publish(
    bundle: Bundle, run_id: str, tracking: MlflowTracking, check: Callable[[], None], policy: Promotion | None
) -> AdapterVersion:
    """Registers a bundle once, however often called; returns its version, which `policy` may make champion.

    `check` raises if the job is no longer the caller's, who then must not register it. Raises UnreachableError.
    """
    done = tracking.registered(bundle.card.name, bundle.card.job_id)
    if done is not None:
        return done
    tracking.log_bundle(run_id, bundle.path)
    check()
    return tracking.register(bundle, run_id, policy)


def told(bundle: Bundle, version: AdapterVersion) -> list[str]:
    """What a job's log says of its published bundle, a line each."""
    note = unchanged_note(bundle.card.metrics)
    standing = version.standing or f"version {version.version} of {version.name}"
    return [standing, *([f"unchanged: {note}"] if note else [])]


def kept(out: Path, job: str) -> Bundle | None:
    """The bundle that an earlier attempt has made and could not publish."""
    if not (out / CARD).exists():
        return None
    try:
        bundle = read_bundle(out)
    except BundleError as problem:
        log.warning("%s; training again", problem)
        return None
    return bundle if bundle.card.job_id == job else None
