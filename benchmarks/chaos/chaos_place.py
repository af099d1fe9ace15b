"""Where chaos happens: one folder with a manifest, a home, and everything that Ray and the driver put down there.

A process belongs to a place if it runs there, logs there, or was told of it; so nothing else is ever killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from lorafleet.home import Home
from lorafleet.toy.subjects import write_subjects
from lorafleet.toy.world import CLASSES
from lorafleet.util.addresses import sqlite_url
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.store import JobStore

BASE, PICTURES = "toy-sdxl", 4


@dataclass(frozen=True)
class Work:
    """What is trained: the same in every place, so that its results compare."""

    manifest: Path
    submission: str


def write_work(folder: Path, jobs: int, steps: int) -> Work:
    """Subjects of the toy world and one manifest: two lanes, packs of four in fixed seats, a checkpoint a second."""
    subjects = write_subjects(folder, [CLASSES[index % len(CLASSES)] for index in range(jobs)], PICTURES)
    manifest = {
        "apiVersion": "lorafleet/v1alpha1", "name": "chaos", "base": BASE,
        "recipe": {"preset": "object", "rank": 4, "steps": steps}, "validation": {"steps": 2, "every": steps // 2},
        "resources": {"lanes": 2, "pack": 4, "exact": True, "checkpoint_seconds": 0.5, "stall_seconds": 120},
        "subjects": [
            {"name": one.name, "images": one.folder.name, "class": one.identity.noun} for one in subjects
        ],
    }  # fmt: skip
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return Work(path, prepare(path).plan.submission)


@dataclass
class Place:
    """A folder, the home in it, and how a driver is started there."""

    root: Path
    work: Work
    database: str | None = None
    """None for SQLite under the home."""
    address: str = "local"
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "ray", "tmp"):
            (self.root / name).mkdir(parents=True)
        self.environment = {
            **os.environ, "LORAFLEET_HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp"),
            "RAY_TMPDIR": str(self.root / "ray"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self.environment["RAY_worker_niceness"] = "0"  # else whoever else is busy here decides how long it takes
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "LORAFLEET_DATABASE_URL"):
            self.environment.pop(name, None)
        if self.database is not None:
            self.environment["LORAFLEET_DATABASE_URL"] = self.database
        self._store: JobStore | None = None

    @property
    def home(self) -> Home:
        """The lorafleet home."""
        return Home(self.root / "home")

    def jobs(self) -> list[JobRow]:
        """The rows as they stand; none before there are any."""
        if self._store is None and self.database is None and not self.home.database.exists():
            return []
        return self.store().jobs(self.work.submission)

    def store(self) -> JobStore:
        """The job rows; made if they are missing."""
        if self._store is None:
            self._store = JobStore(self.database or sqlite_url(self.home.database))
        return self._store

    def start_driver(self) -> subprocess.Popen[bytes]:
        """Submits the manifest as a user would."""
        command = [sys.executable, "-m", "lorafleet", "submit", str(self.work.manifest), "-y", "--json"]
        with (self.root / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--address", self.address], cwd=self.root, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    def processes(self) -> Iterator[psutil.Process]:
        """Everything that lives here."""
        for process in psutil.process_iter():
            if process.pid != os.getpid() and _is_of(process.pid, str(self.root)):
                yield process


def _is_of(pid: int, root: str) -> bool:
    folder = Path("/proc") / str(pid)
    try:
        links = [os.readlink(folder / name) for name in ("cwd", "fd/1", "fd/2")]
        words = (folder / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # gone, or not ours
        return False
    return root in words or any(link.startswith(root) for link in links)
