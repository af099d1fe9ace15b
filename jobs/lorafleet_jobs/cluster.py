"""The Ray that lanes run on: one that is given, one that runs here already, or one started for the occasion."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Ray Train looks whether a worker has ended only so often; 2 s by default, twice a run.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# On a busy machine a worker takes more than the usual 60 s to start; giving up early would only start it again.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")

import ray
from ray.exceptions import RayError

from lorafleet.config import Resources
from lorafleet.errors import ManifestError, UnreachableError

KNOCK_SECONDS = 3.0
OBJECT_STORE_BYTES = 128 * 2**20  # nothing big ever lies there


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, and whether it ends with us."""

    gpus: float
    own: bool


@contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[Cluster]:
    """Connects to Ray at `address`, at RAY_ADDRESS, or to what `ray start` left here with `cpus` free; or starts one.

    Raises UnreachableError if an address was given and nothing answers there.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield Cluster(_gpus(), own=False)
        return
    address = address or os.environ.get("RAY_ADDRESS")
    own = address == "local" or (address is None and not _join_running(cpus))
    if own:
        _start(cpus)
    elif address is not None:
        _join(address)
    try:
        yield Cluster(_gpus(), own)
    finally:
        ray.shutdown()


def gpus_a_lane(resources: Resources, found: Cluster) -> float:
    """GPUs for each lane: what the manifest says, else 1 where there are any."""
    wanted = resources.gpus_per_lane
    if wanted is None:
        return 1.0 if found.gpus > 0 else 0.0
    if wanted > found.gpus and found.own:
        raise ManifestError(
            f"resources.gpus_per_lane is {wanted:g}, but this machine has {found.gpus:g}; leave it out, "
            "or give a cluster with --address"
        )
    return wanted


def lanes_that_fit(wanted: int, jobs: int, gpus: float, found: Cluster) -> int:
    """How many lanes to open: no more than jobs, nor, on a machine of our own, than its GPUs carry."""
    lanes = min(wanted, jobs)
    if gpus > 0 and found.own:
        lanes = min(lanes, int(found.gpus / gpus))
    return max(1, lanes)


def _join(address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, socket.gaierror, RayError, RuntimeError, ValueError) as problem:
        said = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise UnreachableError(
            f"no Ray answers at {address!r} ({said[:200]}); start it, or train here without --address and RAY_ADDRESS"
        ) from None


def _knock(address: str) -> None:
    """Raises OSError within seconds if nobody listens there; Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _join_running(cpus: int) -> bool:
    """Joins the Ray that `ray start` has put on this machine, if there is one and it has room."""
    try:
        folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
        address = (folder / "ray" / "ray_current_cluster").read_text().strip()
        _knock(address)
    except OSError:
        return False
    _join(address)
    if ray.available_resources().get("CPU", 0) >= cpus:
        return True
    ray.shutdown()  # somebody else's work fills it
    return False


def _start(cpus: int) -> None:
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for this cluster; Ray would write one to ~/.ray
    try:
        ray.init(
            address="local", num_cpus=max(cpus, os.cpu_count() or 1), object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
    except (ConnectionError, RayError, RuntimeError, TimeoutError) as problem:
        raise UnreachableError(f"Ray does not start here ({problem}); look into /tmp/ray/session_latest/logs") from None


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))
