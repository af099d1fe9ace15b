"""The Ray that lanes run on: one that is named, one that runs here and proves itself, or one of our own."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Ray Train looks whether a worker has ended only so often; 2 s by default, twice a run.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# On a busy machine a worker takes more than the usual 60 s to start; giving up early would only start it again.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")

import ray
from ray.exceptions import RayError

from lorafleet.config import Resources
from lorafleet.console import note
from lorafleet.errors import ManifestError, UnreachableError
from lorafleet_jobs.cluster.causes import describe, recurs
from lorafleet_jobs.cluster.naming import LOCAL, Named, answers, current_cluster, named_cluster
from lorafleet_jobs.cluster.proving import ask_worker, difference, here, objection, prove

OBJECT_STORE_BYTES = 128 * 2**20  # nothing big ever lies there
WORKER_SECONDS = 180.0
"""So long a named cluster may take to start a worker; one that never does would keep the lanes waiting for ever."""
OWN = "one of our own, which ends with this submission"


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, whether it ends with us, and what it is for people."""

    gpus: float
    own: bool
    name: str = OWN


@contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[Cluster]:
    """Connects to Ray at `address`, at RAY_ADDRESS, or to what `ray start` left here with `cpus` free; or starts one.

    A named cluster that does not answer, or whose workers lack lorafleet, is UnreachableError; one that nobody named
    is passed over, with a note.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield Cluster(_gpus(), own=False, name="the one this process is connected to")
        return
    joined: str | None = None
    if (named := named_cluster(address)) is not None:
        joined = _join(named)
    elif LOCAL not in (address, os.environ.get("RAY_ADDRESS")):
        joined = _join_running(cpus)
    if joined is None:
        _start(cpus)
    try:
        yield Cluster(_gpus(), joined is None, joined or OWN)
    finally:
        ray.shutdown()


def gpus_a_lane(resources: Resources, cluster: Cluster) -> float:
    """GPUs for each lane: what the manifest says, else 1 where there are any."""
    wanted = resources.gpus_per_lane
    if wanted is None:
        return 1.0 if cluster.gpus > 0 else 0.0
    if wanted > cluster.gpus and cluster.own:
        raise ManifestError(
            f"resources.gpus_per_lane is {wanted:g}, but this machine has {cluster.gpus:g}; leave it out, "
            "or give a cluster with --address"
        )
    return wanted


def lanes_that_fit(wanted: int, jobs: int, gpus: float, cluster: Cluster) -> int:
    """How many lanes to open: no more than jobs, nor, on a machine of our own, than its GPUs carry."""
    lanes = min(wanted, jobs)
    if gpus > 0 and cluster.own:
        lanes = min(lanes, int(cluster.gpus / gpus))
    return max(1, lanes)


def _join(named: Named) -> str:
    """Connects, or raises UnreachableError within seconds; returns the cluster's name for people."""
    named.check()
    try:
        ray.init(address=named.address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RayError, RuntimeError, ValueError) as problem:
        raise named.unreachable(problem) from None
    try:
        workers = ask_worker(WORKER_SECONDS)
    except RayError as problem:
        ray.shutdown()
        remedy = "install the same lorafleet on its nodes" if recurs(problem) else "see its logs"
        raise UnreachableError(
            f"Ray at {named.address!r}, which {named.source} names, cannot be used: {objection(problem)}; {remedy}, "
            f"or {named.remedy}"
        ) from None
    if (differs := difference(workers, here())) is not None:
        note(f"Ray at {named.address}: {differs}")
    return f"{named.address} ({named.source})"


def _join_running(cpus: int) -> str | None:
    """Joins the Ray that `ray start` has put on this machine, if it can do our work; None if not, which is noted."""
    try:
        address = current_cluster().read_text().strip()
        answers(address)
    except OSError:
        return None
    why = _unfit(address, cpus)
    if why is None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RayError, RuntimeError, ValueError) as problem:
            why = describe(problem)
    if why is not None:
        note(f"the Ray at {address}, which runs here, is passed over: {why}")
        return None
    return f"{address}, which runs here; RAY_ADDRESS=local starts one of our own"


def _unfit(address: str, cpus: int) -> str | None:
    """Why a cluster that nobody named is not used."""
    proof = prove(address)
    if isinstance(proof, str):
        return proof
    if (differs := difference(proof.workers, here())) is not None:
        return differs
    return None if proof.cpus >= cpus else f"{proof.cpus:g} of its cores are free, and {cpus} are wanted"


def _start(cpus: int) -> None:
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for this cluster; Ray would write one to ~/.ray
    try:
        ray.init(
            address="local", num_cpus=max(cpus, os.cpu_count() or 1), object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            runtime_env=python_of(sys.executable),
        )  # fmt: skip
    except (ConnectionError, RayError, RuntimeError, TimeoutError) as problem:
        raise UnreachableError(f"Ray does not start here ({problem}); look into /tmp/ray/session_latest/logs") from None


def python_of(executable: str) -> dict[str, Any] | None:
    """The runtime environment without which Ray cannot start workers by this Python; None if it can.

    Ray has a shell `exec` the path as it is written, unquoted.
    """
    quoted = shlex.quote(executable)
    return None if quoted == executable else {"py_executable": quoted}


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))
