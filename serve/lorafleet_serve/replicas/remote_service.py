"""The engine's replicas as a `Backend`: calls go through Ray Serve's handle, and Ray's errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from lorafleet.errors import BusyError, LorafleetError, UnreachableError
from lorafleet_serve.api.metrics import ReplicaStats
from lorafleet_serve.api.service import Backend

READY_SECONDS = 5.0


def remote_service(engine: DeploymentHandle) -> Backend:
    """A `Backend` on the engine's deployment, whose replicas are `EngineService`s."""
    return cast(Backend, RemoteService(engine))


class RemoteService:
    """A proxy: every method of `Backend` but the two below is called on one replica, chosen by Ray Serve."""

    def __init__(self, engine: DeploymentHandle) -> None:
        self._engine = engine

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._call, method)

    async def ready(self) -> None:
        """UnreachableError if the engine does not answer within a few seconds."""
        try:
            await asyncio.wait_for(self._call("ready"), READY_SECONDS)
        except TimeoutError:
            raise UnreachableError(f"the engine has not answered for {READY_SECONDS:g} s; try again later") from None

    async def stats(self) -> tuple[ReplicaStats, ...]:
        """The counts of every replica that answers within a few seconds."""
        responses = self._engine.broadcast("stats")
        try:
            answers = await responses.results_async(timeout_s=READY_SECONDS, return_exceptions=True)
        except TimeoutError:
            return ()
        return tuple(stats for answer in answers if isinstance(answer, tuple) for stats in answer)

    async def _call(self, method: str, *arguments: Any) -> Any:
        response = getattr(self._engine, method).remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # Ray Serve does so for a request whose caller has left; a job is cancelled here
            raise
        except RayTaskError as problem:
            if isinstance(problem.cause, LorafleetError):
                raise problem.cause from None
            raise
        except BackPressureError:
            raise BusyError("too many requests are waiting; send the request again later") from None
        except (RayActorError, DeploymentUnavailableError):
            raise UnreachableError("the engine is restarting; send the request again later") from None
