"""The job queue behind a Ray actor (the dispatcher), so that lanes on other machines reach the rows on this one.

The actor has no state of its own, for the rows are the truth: one that dies is started again and asked again. It sits
on the driver's node, where the database is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from sqlalchemy.exc import OperationalError

from lorafleet.errors import UnreachableError, first_line
from lorafleet_jobs.jobqueue.job_queue import JobQueue

PATIENCE = 300.0
"""Seconds that a lane waits for the dispatcher or its database to come back before it gives up its life."""
ANSWER_SECONDS = 60.0
PAUSE_SECONDS = 1.0
AWAY = (RayActorError, GetTimeoutError, OperationalError)
log = logging.getLogger(__name__)


def start_dispatcher(url: str, submission: str, workers: int | None = None, driver: str | None = None) -> Any:
    """Starts the queue of a submission as an actor beside the driver; it needs no CPU of the cluster's.

    `workers` and `driver` are those of `JobQueue`.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(JobQueue).options(
        num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1, max_concurrency=1
    )
    return actor.remote(url, submission, workers=workers, driver=driver)


def remote_queue(dispatcher: Any, patience: float = PATIENCE) -> JobQueue:
    """The queue behind a dispatcher's handle, with every method of `JobQueue`; it survives the dispatcher's death.

    Methods raise UnreachableError if the dispatcher does not answer again within `patience` seconds.
    """
    return cast(JobQueue, _Proxy(dispatcher, patience))


class _Proxy:
    """Calls an actor's method of the same name, again and again while the actor or its database is away."""

    def __init__(self, handle: Any, patience: float) -> None:
        self._handle, self._patience = handle, patience

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *arguments: self._call(method, *arguments)

    def _call(self, method: str, *arguments: object) -> Any:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return ray.get(getattr(self._handle, method).remote(*arguments), timeout=ANSWER_SECONDS)
            except AWAY as problem:
                inner = getattr(problem, "cause", None) or problem  # Ray puts a traceback before what was said
                reason = first_line(inner)
                if time.monotonic() >= deadline:
                    raise UnreachableError(
                        f"the dispatcher does not answer ({reason}); see whether the driver runs, then submit again"
                    ) from None
                log.warning("the dispatcher does not answer (%s); asking again", reason)
            time.sleep(PAUSE_SECONDS)
