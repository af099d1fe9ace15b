"""Where lorafleet keeps things: one home folder, `LORAFLEET_HOME` or `./.lorafleet`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lorafleet.util.addresses import database_address, sqlite_url, tracking_address


@dataclass(frozen=True)
class Home:
    """The paths under one home folder; nothing is created by asking for a path."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """The home of this process, absolute."""
        return cls(Path(os.environ.get("LORAFLEET_HOME") or ".lorafleet").resolve())

    @property
    def database(self) -> Path:
        """Job rows (SQLite)."""
        return self.root / "jobs.db"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store, absolute: `MLFLOW_TRACKING_URI`, else SQLite under the home. Raises SettingsError."""
        address = os.environ.get("MLFLOW_TRACKING_URI")
        return tracking_address(address) if address else sqlite_url(self.root / "mlflow.db")

    @property
    def database_url(self) -> str:
        """URL of the job rows, absolute: `LORAFLEET_DATABASE_URL`, else SQLite under the home. Raises SettingsError."""
        address = os.environ.get("LORAFLEET_DATABASE_URL")
        return database_address(address, "LORAFLEET_DATABASE_URL") if address else sqlite_url(self.database)

    def environment(self) -> dict[str, str]:
        """The variables with which a process in any folder finds the same home, runs and job rows."""
        variables = {"LORAFLEET_HOME": str(self.root)}
        if os.environ.get("MLFLOW_TRACKING_URI"):
            variables["MLFLOW_TRACKING_URI"] = self.tracking_uri
        if os.environ.get("LORAFLEET_DATABASE_URL"):
            variables["LORAFLEET_DATABASE_URL"] = self.database_url
        return variables

    @property
    def artifacts(self) -> Path:
        """MLflow's local artifacts."""
        return self.root / "artifacts"

    @property
    def submissions(self) -> Path:
        """One folder for each submission: its resolved manifest, logs and work in progress."""
        return self.root / "submissions"

    def job_log(self, submission: str, job: str) -> Path:
        """The log of one job, one line for each event."""
        return self.submissions / submission / f"{job}.log"

    def report(self, submission: str) -> Path:
        """The web page about a submission's end."""
        return self.submissions / submission / "report.html"

    @property
    def bundles(self) -> Path:
        """Finished adapter bundles, one folder for each job."""
        return self.root / "bundles"

    @property
    def adapter_cache(self) -> Path:
        """Bundles fetched from the registry for serving."""
        return self.root / "adapter-cache"

    @property
    def bases(self) -> Path:
        """Bases that were added, one folder in the diffusers layout for each name."""
        return self.root / "bases"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, one folder for each job, deleted once the job's bundle is written."""
        return self.root / "checkpoints"

    @property
    def cache(self) -> Path:
        """Latents and class images, shared by all jobs; may be deleted at any time."""
        return self.root / "cache"

    @property
    def photographs(self) -> Path:
        """Photographs that came from a zip file or an address, one folder for each content."""
        return self.root / "photographs"

    @property
    def forgotten(self) -> Path:
        """Receipts of what was forgotten, and the hashes by which it is known if it comes again."""
        return self.root / "forgotten"

    @property
    def ray_temp(self) -> Path:
        """Ray Train's storage."""
        return self.root / "ray"
