"""Ray Serve around the engine: a CPU ingress with the routes, and a deployment that owns the device.

Thin on purpose. No method blocks an event loop: the engine's thread does the work, the methods enqueue and await.
Ray Serve reads the builder's annotation as a class, so this module does without postponed annotations.
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
from fastapi import FastAPI
from pydantic import Field
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from lorafleet.bases import find_base
from lorafleet.config.strict import Strict
from lorafleet.errors import BusyError, LorafleetError, UnreachableError
from lorafleet.home import Home
from lorafleet.ports import AdapterRegistry
from lorafleet_serve.app import build_app
from lorafleet_serve.schemas import AdapterList, ImagesReply, ImagesRequest, ModelList

READY_SECONDS = 5.0


class ServeArgs(Strict):
    """What `lorafleet serve` and serve.yaml say; unset values are decided where the application is built."""

    base: str = "toy-playground"
    max_rows: Annotated[int, Field(ge=1, le=256)] = 8
    """Images that are denoised at the same time."""
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = 64
    """Requests that may wait beyond those; more are answered 429."""
    device: Literal["cpu", "cuda"] | None = None
    """The GPU if the cluster has one."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """fp32 on a CPU, fp16 on a GPU."""
    tracking_uri: str | None = None
    """Where adapters are registered; the home's MLflow by default."""
    cache: str | None = None
    """Where fetched bundles are kept; under the home by default."""
    bundles: str | None = None
    """A folder of bundles to serve instead of a registry."""

    def settled(self) -> "ServeArgs":
        """A copy with every unset value decided for this machine and cluster."""
        home = Home.from_environment()
        device = self.device or ("cuda" if _cluster_has_gpu() else "cpu")
        return self.with_changes(
            device=device,
            precision=self.precision or ("fp16" if device == "cuda" else "fp32"),
            tracking_uri=self.tracking_uri or home.tracking_uri,
            cache=self.cache or str(home.adapter_cache),
        )

    def registry(self) -> AdapterRegistry:
        """Where adapters are found by name."""
        if self.bundles is not None:
            from lorafleet.registry import FolderRegistry

            return FolderRegistry(Path(self.bundles))
        from lorafleet.tracking import MlflowRegistry

        settled = self.settled()
        return MlflowRegistry(str(settled.tracking_uri), Path(str(settled.cache)))


def _cluster_has_gpu() -> bool:
    return bool(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1)


class EngineDeployment:
    """Owns the engine. Cancelling a call cancels its rows at the next step."""

    def __init__(self, args: ServeArgs) -> None:
        from lorafleet.quiet import quiet_libraries

        quiet_libraries()
        from lorafleet_serve.engine import StepEngine
        from lorafleet_serve.pipeline import Pipeline
        from lorafleet_serve.service import EngineService

        model = Pipeline.load(find_base(args.base), args.device or "cpu", args.precision or "fp32")
        engine = StepEngine(model, max_rows=args.max_rows, max_queue=args.max_queue)
        self._service = EngineService(engine, args.registry())

    async def generate(self, request: ImagesRequest) -> ImagesReply:
        """Enqueues and awaits."""
        return await self._service.generate(request)

    async def adapters(self) -> AdapterList:
        """Asks the registry in another thread."""
        return await self._service.adapters()

    async def models(self) -> ModelList:
        """The served base."""
        return await self._service.models()

    async def ready(self) -> None:
        """Asks the engine's heartbeat."""
        await self._service.ready()

    async def check_health(self) -> None:
        """Ray Serve's probe: a dead or stalled engine thread gets the replica replaced."""
        await self._service.ready()

    async def __del__(self) -> None:
        """Lets accepted requests finish."""
        if hasattr(self, "_service"):  # the constructor may have failed
            await asyncio.to_thread(self._service.engine.close)


class HandleBackend:
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


class Ingress:
    """The routes; holds a handle and nothing heavy."""

    def __init__(self, engine: DeploymentHandle) -> None:
        self._backend = HandleBackend(engine)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve on the replica, after the constructor."""
        return build_app(self._backend)


def build(args: ServeArgs) -> serve.Application:
    """The application, for `lorafleet serve` and for `serve deploy serve/serve.yaml`."""
    args = args.settled()
    find_base(args.base)  # a wrong name fails here and not in a replica that starts again and again
    engine = serve.deployment(
        name="engine",
        max_ongoing_requests=args.max_rows + args.max_queue + 16,  # the engine's own bound answers first
        graceful_shutdown_timeout_s=300,
        max_constructor_retry_count=2,
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 if args.device == "cuda" else 0},
    )(EngineDeployment)
    ingress = serve.deployment(
        name="ingress",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress()(Ingress))
    application: serve.Application = ingress.bind(engine.bind(args))
    return application
