"""The desk behind a Ray actor, so that lanes on other machines reach the rows on this one.

The actor holds nothing of its own (the rows are the truth) and sits on the driver's node, where the database is.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lorafleet_jobs.desk import Lease, StoreDesk
from lorafleet_jobs.rows import Ending


def start_dispatcher(url: str, submission: str) -> Any:
    """Starts the desk of a submission as an actor beside the driver; it needs no CPU of the cluster's."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(StoreDesk).options(num_cpus=0, scheduling_strategy=here).remote(url, submission)


class RemoteDesk:
    """`lorafleet_jobs.desk.Desk` over an actor's handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def open(self, lane: str) -> None:
        """Takes back what an earlier life of this lane held."""
        ray.get(self._handle.open.remote(lane))

    def lease(self, lane: str) -> Lease | None:
        """The next job, or None if none is free now."""
        lease: Lease | None = ray.get(self._handle.lease.remote(lane))
        return lease

    def is_drained(self) -> bool:
        """Whether every job has ended."""
        return bool(ray.get(self._handle.is_drained.remote()))

    def heartbeat(self, job: str, attempt: int) -> bool:
        """Still at it."""
        return bool(ray.get(self._handle.heartbeat.remote(job, attempt)))

    def progress(self, job: str, attempt: int, step: int, loss: float) -> bool:
        """So far."""
        return bool(ray.get(self._handle.progress.remote(job, attempt, step, loss)))

    def finish(self, job: str, attempt: int, state: Ending, version: int | None, error: str | None) -> bool:
        """How it ended."""
        return bool(ray.get(self._handle.finish.remote(job, attempt, state, version, error)))
