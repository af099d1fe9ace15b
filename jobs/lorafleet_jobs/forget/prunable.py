"""What lies under a home and is needed by no adapter, no submission and no job that has not ended. Pure.

Whatever may still be of use stays: checkpoints that a job could go on from, bundles that are not registered and whose
job is known, caches while any job runs. Times are passed in, seconds since the epoch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafleet_jobs.jobqueue.job_state import ENDED, JobRow, checkpoint_name, may_resume

DAY = 86_400.0
SCRATCH = re.compile(r"\..+\.[0-9a-f]{32}")
"""The name of what a process writes before it is renamed (`lorafleet.util.files`)."""
SCRATCH_DAYS = 1.0
"""No process writes one file for so long."""
CHECKPOINTS, HALVES, PHOTOGRAPHS, LATENTS, CLASS_IMAGES, CACHED, ORPHANS, RUNS = (
    "checkpoints of ended jobs", "half-written files", "photographs fetched", "latents", "class images",
    "bundles in the cache", "bundles of no job or version", "Ray Train's folders",
)  # fmt: skip


@dataclass(frozen=True)
class Lying:
    """A file or folder, and what is known of it without opening it."""

    path: Path
    bytes: int
    used: float
    """When any of it was last read or written."""


@dataclass(frozen=True)
class Seen:
    """All that lies in one home's places, and what the rows and the registry say."""

    rows: Sequence[JobRow]
    driven: Collection[str]
    """Submissions that a process drives now."""
    published: Collection[str]
    """Ids of jobs that have a registered version."""
    unregistered: Collection[str]
    """Digests in the cache of bundles that no registered version has."""
    checkpoints: Sequence[Lying] = ()
    bundles: Sequence[Lying] = ()
    photographs: Sequence[Lying] = ()
    """Unpacked from zip files or fetched from addresses, which can be done again."""
    cached: Sequence[Lying] = ()
    latents: Sequence[Lying] = ()
    class_images: Sequence[Lying] = ()
    runs: Sequence[Lying] = ()
    scratch: Sequence[Lying] = ()


def prunable(seen: Seen, days: float, now: float) -> dict[str, list[Lying]]:
    """By kind what may go; caches and what belongs to no known job only if it was not used for so many days."""

    def old(lying: Lying, least: float = days) -> bool:
        return now - lying.used >= least * DAY

    by_id: dict[str, list[JobRow]] = {}
    for row in seen.rows:
        by_id.setdefault(row.id, []).append(row)
    idle = not any(row.state == "running" for row in seen.rows)
    known = {row.submission for row in seen.rows}
    found = {
        CHECKPOINTS: [one for one in seen.checkpoints if _checkpoint_goes(one, by_id, old(one))],
        HALVES: [one for one in seen.scratch if old(one, SCRATCH_DAYS)],
        PHOTOGRAPHS: [one for one in seen.photographs if old(one) and not _is_trained_on(one.path, seen.rows)],
        LATENTS: [one for one in seen.latents if idle and old(one)],
        CLASS_IMAGES: [one for one in seen.class_images if idle and old(one)],
        CACHED: [one for one in seen.cached if one.path.name in seen.unregistered or old(one)],
        ORPHANS: [
            one for one in seen.bundles if one.path.name not in {*by_id, *seen.published} and old(one)
        ],
        RUNS: [one for one in seen.runs if _run_goes(one.path.name, known, seen.driven) or old(one)],
    }  # fmt: skip
    return {kind: lying for kind, lying in found.items() if lying}


def _checkpoint_goes(lying: Lying, by_id: Mapping[str, Sequence[JobRow]], is_old: bool) -> bool:
    """Whether no job will go on from these checkpoints; of a job that another database knows only age can tell."""
    rows = by_id.get(lying.path.name.partition("-")[0], ())
    if not rows:
        return is_old
    return not any(may_resume(row) and lying.path.name == checkpoint_name(row.id, row.seed_shift) for row in rows)


def _is_trained_on(folder: Path, rows: Sequence[JobRow]) -> bool:
    return any(row.state not in ENDED and Path(row.spec.folder).is_relative_to(folder) for row in rows)


def _run_goes(name: str, known: Collection[str], driven: Collection[str]) -> bool:
    """Whether a folder is of a lane of a submission that nobody drives: `<submission>-<drive>-<lane>-<life>`."""
    submission = name.rsplit("-", 3)[0]
    return submission in known and submission not in driven
