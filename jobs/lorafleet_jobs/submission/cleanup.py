"""Removes what dead lanes and drivers left: what was kept of jobs that will not go on, and half-written folders.

Only what certainly belongs to a job of this database goes, and never anything of a job that may still resume.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from lorafleet.home import Home
from lorafleet_jobs.jobqueue.job_state import JobRow, checkpoint_name, may_resume
from lorafleet_jobs.jobqueue.store import JobStore

log = logging.getLogger(__name__)


def collect(home: Home, store: JobStore, submission: str) -> list[Path]:
    """Removes what a submission left under a home; returns what went. For its driver, while no lane lives."""
    checkpoints, bundles = _inside(home.checkpoints), _inside(home.bundles)
    folders = [*checkpoints, *[part for folder in checkpoints for part in _inside(folder)], *bundles]
    recorded = store.with_ids([row.id for row in store.jobs(submission)])  # another submission may have the same job
    gone = [path for path in folders if path.parent.exists() and is_left_over(path, home, recorded)]
    gone += [path for path in _inside(home.ray_temp) if is_run_of(path.name, submission)]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
        log.info("removed %s", path)
    return gone


def is_left_over(path: Path, home: Home, recorded: Collection[JobRow]) -> bool:
    """Whether nobody will ever read a folder: a job's checkpoints, one half-written among them, or half a bundle."""
    folder = path if path.parent in (home.checkpoints, home.bundles) else path.parent
    rows = [row for row in recorded if row.id == _job_of(folder)]
    if not rows:
        return False  # of another submission or database
    if path.name.startswith("."):
        return not any(row.state == "running" for row in rows)
    if path.parent != home.checkpoints:
        return False
    other_seed = not any(path.name == checkpoint_name(row.id, row.seed_shift) for row in rows)
    return other_seed or not any(may_resume(row) for row in rows)


def is_run_of(name: str, submission: str) -> bool:
    """Whether a folder in Ray Train's storage is of a lane of this submission: `<submission>-<drive>-<lane>-<life>`."""
    return name.startswith(f"{submission}-") and name.count("-") == submission.count("-") + 3


def _job_of(folder: Path) -> str:
    """From `<job>`, `<job>-seed1` and `.<job>.<scratch>`."""
    return folder.name.lstrip(".").partition(".")[0].partition("-")[0]


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
