"""Counters as Prometheus text: the engines', the resolvers' and the disk caches' by replica, HTTP's by ingress.

Knows the stats of each part and Prometheus' format; refuses to know Ray and how the stats travelled here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from lorafleet.bundle.disk_cache import CacheStats
from lorafleet_serve.adapters.resolver import ResolverStats
from lorafleet_serve.stats import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
LEFT = "499"
"""The status, as nginx writes it, of a request whose client left."""


@dataclass(frozen=True)
class ReplicaStats:
    """Everything that one replica counts."""

    replica: str
    engine: EngineStats
    resolver: ResolverStats
    disk: CacheStats


GAUGES = {
    "engine.rows_running": ("rows_running", "Images being denoised now."),
    "engine.rows_waiting": ("rows_waiting", "Images accepted and not yet being denoised."),
    "engine.slot_bytes": ("slot_bytes", "Bytes of adapters on the device."),
    "disk.bytes": ("disk_cache_bytes", "Bytes of bundles in this machine's disk cache."),
}
COUNTERS = {
    "engine.images": ("images", "Images finished."),
    "engine.failed": ("images_failed", "Images that ended with an error."),
    "engine.cancelled": ("images_cancelled", "Images given up because their caller left."),
    "engine.steps": ("steps", "Calls of the UNet."),
    "engine.unet_rows": ("unet_rows", "Rows in those calls: two an image under guidance."),
    "engine.step_seconds": ("step_seconds", "Seconds in those calls."),
    "engine.host_hits": ("host_hits", "Adapters found in host memory."),
    "engine.host_misses": ("host_misses", "Adapters read from disk into host memory."),
    "engine.slot_hits": ("slot_hits", "Adapters found on the device."),
    "engine.slot_misses": ("slot_misses", "Adapters copied to the device."),
    "engine.slot_evictions": ("slot_evictions", "Adapters dropped from the device."),
    "engine.swap_seconds": ("swap_seconds", "Seconds of copying adapters to the device."),
    "engine.prompt_hits": ("prompt_hits", "Prompts found encoded."),
    "engine.prompt_misses": ("prompt_misses", "Prompts encoded."),
    "resolver.hits": ("resolver_hits", "Adapter names answered from what was known."),
    "resolver.misses": ("resolver_misses", "Adapter names asked of the registry."),
    "resolver.stale": ("resolver_stale", "Adapter names answered as last known: the registry did not answer."),
    "resolver.failures": ("resolver_failures", "Adapter names answered with an error."),
    "disk.hits": ("disk_cache_hits", "Bundles found in the disk cache."),
    "disk.misses": ("disk_cache_misses", "Bundles downloaded."),
    "disk.damaged": ("disk_cache_damaged", "Bundles in the disk cache that did not match their digest."),
    "disk.evictions": ("disk_cache_evictions", "Bundles dropped from the disk cache."),
}


@dataclass(frozen=True, eq=False)
class Replicas:
    """The replicas' stats as a Prometheus collector."""

    stats: Sequence[ReplicaStats]

    def collect(self) -> Iterator[Metric]:
        """One family a counter, one sample a replica."""
        yield from self._families(GaugeMetricFamily, GAUGES)
        yield from self._families(CounterMetricFamily, COUNTERS)

    def _families(self, kind: Any, table: dict[str, tuple[str, str]]) -> Iterator[Metric]:
        for path, (name, help_text) in table.items():
            family = kind(f"lorafleet_{name}", help_text, labels=["replica"])
            for one in self.stats:
                family.add_metric([one.replica], attrgetter(path)(one))
            yield family


class HttpMetrics:
    """Requests by route and status, and how long they took, of one ingress process."""

    def __init__(self, ingress: str) -> None:
        self.registry = CollectorRegistry()
        self._ingress = ingress
        self._requests = Counter(
            "lorafleet_http_requests", "Requests answered; 499: the client left.",
            ["ingress", "method", "route", "status"], registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "lorafleet_http_request_seconds", "Seconds from a request's arrival to its answer's end.",
            ["ingress", "method", "route"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip

    def answered(self, method: str, route: str, status: str, seconds: float) -> None:
        """Counts one request."""
        self._requests.labels(self._ingress, method, route, status).inc()
        self._seconds.labels(self._ingress, method, route).observe(seconds)


class Metered:
    """ASGI middleware that counts what passes through it."""

    def __init__(self, app: Any, metrics: HttpMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes everything on untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = LEFT, time.perf_counter()

        async def noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # what a client makes up is no label
            self.metrics.answered(scope["method"], route, status, time.perf_counter() - started)


def exposition(http: HttpMetrics, stats: Sequence[ReplicaStats]) -> bytes:
    """Everything in Prometheus' text format."""
    replicas = CollectorRegistry()
    replicas.register(Replicas(stats))
    return generate_latest(http.registry) + generate_latest(replicas)
