"""The engine's replicas as a `Backend`: calls through Ray Serve's handle, and Ray's errors turned into ours."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from lorafleet.errors import BusyError, LorafleetError, UnreachableError
from lorafleet_serve.api.metrics import ReplicaStats
from lorafleet_serve.api.schemas import AdapterList, ImagesReply, ImagesRequest, ModelList

READY_SECONDS = 5.0


class RemoteService:
    """A `Backend` on the engine's deployment; Ray's errors become ours."""

    def __init__(self, engine: DeploymentHandle) -> None:
        self._engine = engine

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Makes the images asked for."""
        reply: ImagesReply = await self._ask("generate", request)
        return reply

    async def adapters(self) -> AdapterList:
        """Every registered adapter version."""
        reply: AdapterList = await self._ask("adapters")
        return reply

    async def models(self) -> ModelList:
        """The served base."""
        reply: ModelList = await self._ask("models")
        return reply

    async def ready(self) -> None:
        """UnreachableError if the engine does not answer within a few seconds."""
        try:
            await asyncio.wait_for(self._ask("ready"), READY_SECONDS)
        except TimeoutError:
            raise UnreachableError(f"the engine has not answered for {READY_SECONDS:g} s; try again later") from None

    async def stats(self) -> tuple[ReplicaStats, ...]:
        """The counts of every replica that answers within a few seconds."""
        asked = self._engine.broadcast("stats")
        try:
            answers = await asked.results_async(timeout_s=READY_SECONDS, return_exceptions=True)
        except TimeoutError:
            return ()
        return tuple(one for answer in answers if isinstance(answer, tuple) for one in answer)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._engine, method).remote(*arguments)
        except RayTaskError as problem:
            if isinstance(problem.cause, LorafleetError):
                raise problem.cause from None
            raise
        except BackPressureError:
            raise BusyError("too many requests are waiting; send the request again later") from None
        except (RayActorError, DeploymentUnavailableError):
            raise UnreachableError("the engine is restarting; send the request again later") from None
