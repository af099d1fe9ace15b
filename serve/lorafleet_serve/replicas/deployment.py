"""Ray Serve around the engine: a CPU ingress with the routes, and a deployment that owns the device.

No method blocks an event loop: the engine's threads do the work, the methods queue it and await.
Ray Serve reads the builder's annotation as a class, so this module has no postponed annotations.
"""

import asyncio
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from lorafleet.util.quiet import quiet_libraries
from lorafleet_serve.adapters.resolver import Freshness
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.image_jobs.job_limits import JobLimits
from lorafleet_serve.api.service import EngineService
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.replicas.ray_policies import HELD, ROWS
from lorafleet_serve.replicas.remote_service import remote_service
from lorafleet_serve.replicas.serve_args import GIB, ServeArgs

DRAIN_SECONDS = 300


class EngineDeployment(EngineService):
    """An `EngineService` that makes its own engine, and what Ray Serve asks of a replica.

    Cancelling a call cancels its rows at the next step.
    """

    def __init__(self, args: ServeArgs) -> None:
        quiet_libraries()
        model = Pipeline.load(args.find_base(), args.device or "cpu", args.precision or "fp32")
        engine = StepEngine(
            model,
            max_rows=args.max_rows,
            max_queue=args.max_queue,
            max_step_ms=args.max_step_ms,
            exact=args.exact,
            capture=args.capture,
            slot_bytes=int(args.slot_gib * GIB),
            host_bytes=int(args.host_gib * GIB),
        )
        freshness = Freshness(alias_ttl=args.alias_ttl, stale_for=args.stale_for)
        replica = serve.get_replica_context().replica_id.unique_id
        super().__init__(engine, args.registry(), freshness, replica, args.auto_adapters)
        self.removals.start(args.alias_ttl)

    async def record_routing_stats(self) -> dict[str, Any]:
        """Called by Ray Serve for the router."""
        return {HELD: sorted(self.held()), ROWS: self.rows()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve for the autoscaler."""
        return {ROWS: self.rows()}

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica if a thread of its engine died or hangs."""
        await self.ready()

    async def __del__(self) -> None:
        """Called by Ray Serve before the replica ends: lets accepted requests finish."""
        if hasattr(self, "engine"):  # the constructor may have failed
            self.removals.close()
            await asyncio.to_thread(self.engine.close)


class Ingress:
    """The HTTP routes on a handle of the engine's deployment; loads no model."""

    def __init__(self, engine: DeploymentHandle, accept_any_model: bool, limits: JobLimits) -> None:
        self._backend, self._accept_any_model, self._limits = remote_service(engine), accept_any_model, limits

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve on the replica, after the constructor."""
        ingress = serve.get_replica_context().replica_id.unique_id
        return build_app(self._backend, ingress, self._accept_any_model, self._limits)


def build(args: ServeArgs) -> serve.Application:
    """The application, for `lorafleet serve` and for `serve deploy serve/serve.yaml`."""
    args = args.with_defaults()
    args.find_base()  # a wrong name fails here, not in a replica that is started again and again
    engine = serve.deployment(
        name="engine",
        max_ongoing_requests=args.max_rows + args.max_queue + 16,  # the engine's own bound answers first
        max_queued_requests=args.max_rows + args.max_queue,  # while no replica is up; beyond it BackPressureError
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        health_check_period_s=5,
        max_constructor_retry_count=2,
        ray_actor_options={"num_cpus": 1, "num_gpus": args.gpus_per_replica if args.device == "cuda" else 0},
        request_router_config=RequestRouterConfig(
            request_router_class="lorafleet_serve.replicas.ray_policies:AffinityRouter",
            request_router_kwargs={"room": args.max_rows},
            request_routing_stats_period_s=1,
        ),
        **_size(args),
    )(EngineDeployment)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=1,  # jobs live in its memory
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress()(Ingress))
    limits = JobLimits(images_at_once=args.max_rows * args.most_replicas, webhook_hosts=args.webhook_hosts)
    application: serve.Application = ingress.bind(engine.bind(args), args.accept_any_model, limits)
    return application


def _size(args: ServeArgs) -> dict[str, Any]:
    if args.most_replicas == args.replicas:
        return {"num_replicas": args.replicas}
    policy = AutoscalingPolicy(
        policy_function="lorafleet_serve.replicas.ray_policies:RowsPolicy", policy_kwargs={"room": args.max_rows}
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=args.replicas,
            max_replicas=args.most_replicas,
            policy=policy,
            look_back_period_s=15,
            upscale_delay_s=10,
            downscale_delay_s=300,
        )
    }
