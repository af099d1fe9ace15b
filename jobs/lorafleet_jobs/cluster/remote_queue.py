"""The desk behind a Ray actor, so that lanes on other machines reach the rows on this one.

The actor holds nothing of its own (the rows are the truth), so that one that dies is started again and asked again. It
sits on the driver's node, where the database is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sqlalchemy.exc import OperationalError

from lorafleet.errors import UnreachableError, first_line
from lorafleet_jobs.jobqueue.asha import Verdict
from lorafleet_jobs.jobqueue.job_queue import Lease, LocalJobQueue
from lorafleet_jobs.jobqueue.job_state import Ending, FailureKind, State

PATIENCE = 300.0
"""Seconds that a lane waits for the dispatcher or its database to come back before it gives up its life."""
ANSWER_SECONDS = 60.0
PAUSE_SECONDS = 1.0
AWAY = (RayActorError, GetTimeoutError, OperationalError)
log = logging.getLogger(__name__)


def start_dispatcher(url: str, submission: str, workers: int | None = None) -> Any:
    """Starts the desk of a submission as an actor beside the driver; it needs no CPU of the cluster's.

    With `workers` it hands out only the jobs that so many workers share.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(LocalJobQueue).options(
        num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1, max_concurrency=1
    )
    return actor.remote(url, submission, workers=workers)


class RemoteJobQueue:
    """`lorafleet_jobs.jobqueue.job_queue.JobQueue` over an actor's handle; survives the actor's death.

    Methods raise UnreachableError if it does not come back.
    """

    def __init__(self, handle: Any, patience: float = PATIENCE) -> None:
        self._handle = handle
        self._patience = patience

    def open(self, lane: str) -> None:
        """Takes back what an earlier life of this lane held: it died."""
        self._ask("open", lane)

    def lease(self, lane: str, holding: Collection[str]) -> Lease | None:
        """One more job for a lane that holds these, or None if none is free for it now."""
        lease: Lease | None = self._ask("lease", lane, tuple(holding))
        return lease

    def is_drained(self) -> bool:
        """Whether every job has ended."""
        return bool(self._ask("is_drained"))

    def gives_way(self, tenure: float) -> bool:
        """Whether a lane that has been at work for `tenure` seconds should leave its place to another submission."""
        return bool(self._ask("gives_way", tenure))

    def heartbeat(self, job: str, attempt: int) -> bool:
        """Still at it."""
        return bool(self._ask("heartbeat", job, attempt))

    def progress(self, job: str, attempt: int, step: int, loss: float | None) -> bool:
        """So far."""
        return bool(self._ask("progress", job, attempt, step, loss))

    def compare(self, job: str, attempt: int, rung: int, score: float) -> Verdict | None:
        """Whether it goes on beyond a rung of its sweep, having this score there."""
        verdict: Verdict | None = self._ask("compare", job, attempt, rung, score)
        return verdict

    def finish(self, job: str, attempt: int, state: Ending, version: int | None, error: str | None) -> bool:
        """How it ended."""
        return bool(self._ask("finish", job, attempt, state, version, error))

    def fail(self, job: str, attempt: int, kind: FailureKind, reason: str, packed: int) -> State | None:
        """It failed among `packed` jobs, itself included; returns what became of it: queued again, or failed."""
        state: State | None = self._ask("fail", job, attempt, kind, reason, packed)
        return state

    def give_back(self, job: str, attempt: int) -> bool:
        """The lane has to leave it, through no fault of the job's."""
        return bool(self._ask("give_back", job, attempt))

    def _ask(self, method: str, *arguments: object) -> Any:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return ray.get(getattr(self._handle, method).remote(*arguments), timeout=ANSWER_SECONDS)
            except AWAY as problem:
                inner = getattr(problem, "cause", None) or problem  # Ray puts a traceback before what was said
                said = first_line(inner)
                if time.monotonic() >= deadline:
                    raise UnreachableError(
                        f"the dispatcher does not answer ({said}); see whether the driver still runs, then submit again"
                    ) from None
                log.warning("the dispatcher does not answer (%s); asking again", said)
            time.sleep(PAUSE_SECONDS)
