"""How many lanes a submission gets, how wide they are, and on what: decided from its rows and what the cluster has.

Knows counts; refuses to know how a lane is started (`lanes`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lorafleet.config import Resources
from lorafleet.errors import ManifestError
from lorafleet.home import Home
from lorafleet_jobs.cluster.ray_cluster import Cluster, gpus_a_lane, lanes_that_fit
from lorafleet_jobs.intake.choose import LARGEST_PACK
from lorafleet_jobs.jobqueue.job_state import ENDED, JobRow
from lorafleet_jobs.jobqueue.policy import workers_wanted
from lorafleet_jobs.jobqueue.status import store_url
from lorafleet_jobs.jobqueue.tables import SubmissionRow


@dataclass(frozen=True)
class Fleet:
    """The lanes of one submission."""

    submission: str
    drive: str
    """Differs from drive to drive, so that no run name is ever met again."""
    lanes: int
    pack: int
    cpus: int
    """Of each worker."""
    gpus: float
    """Of each worker."""
    resources: Resources
    """As the manifest has them."""
    home: Path
    storage: Path
    tracking_uri: str
    database: str
    spans: Path
    """The folder where lanes record what they spend their time on."""
    rank: int = 0
    """The highest of its jobs."""
    workers: int = 1
    """Of each lane; with more than one they share one job at a time."""
    driver: str | None = None
    """The token of the driver's lease: the lanes end when another driver takes over."""


def cpus_wanted(row: SubmissionRow, jobs: Sequence[JobRow]) -> int:
    """Cores for all lanes."""
    todo = sum(job.state not in ENDED for job in jobs)
    return row.resources.cpus_per_lane * min(row.lanes, todo) * max(workers_wanted(jobs), default=1)


def fleet_of(
    row: SubmissionRow, jobs: Sequence[JobRow], home: Home, cluster: Cluster, driver: str | None = None
) -> Fleet:
    """The lanes for what is left of a submission, each as wide as its widest job. Raises ManifestError."""
    todo = sum(job.state not in ENDED for job in jobs)
    gpus, workers = gpus_a_lane(row.resources, cluster), max(workers_wanted(jobs), default=1)
    if cluster.own and gpus * workers > max(cluster.gpus, gpus):
        raise ManifestError(
            f"recipe.workers is {workers}, with {gpus:g} GPUs each, but this machine has {cluster.gpus:g}; lower it, "
            "or give a cluster with --address"
        )
    lanes = lanes_that_fit(row.lanes, todo, gpus * workers, cluster)
    return Fleet(
        submission=row.id, drive=uuid.uuid4().hex[:8], lanes=lanes, pack=_pack(row, gpus, -(-todo // lanes)),
        cpus=row.resources.cpus_per_lane, gpus=gpus, resources=row.resources, home=home.root, storage=home.ray_temp,
        tracking_uri=home.tracking_uri, database=store_url(home), spans=home.submissions / row.id / "spans",
        rank=max((job.spec.recipe.rank for job in jobs), default=0), driver=driver,
    )  # fmt: skip


def _pack(row: SubmissionRow, gpus: float, share: int) -> int:
    """As planned; on a GPU, where a lane measures what its jobs take (`train.memory`), `auto` is as many as pay.

    A compiled pack has its seats from the first step on, so that nothing could be measured before.
    """
    resources = row.resources
    planned = 1 if resources.pack == "auto" else resources.pack
    written = yaml.safe_load(row.manifest).get("resources", {}).get("pack", "auto")
    if gpus == 0 or written != "auto" or resources.compile:
        return planned
    return max(planned, min(LARGEST_PACK, share))
