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
CLIENT_CLOSED_REQUEST = "499"
"""nginx' status of a request whose client disconnected before the answer."""


@dataclass(frozen=True)
class ReplicaStats:
    """The counts of one replica."""

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
    "engine.cancelled": ("images_cancelled", "Images cancelled because their caller disconnected."),
    "engine.steps": ("steps", "UNet calls."),
    "engine.unet_rows": ("unet_rows", "Rows in the UNet calls: two for an image under guidance, else one."),
    "engine.step_seconds": ("step_seconds", "Seconds spent in the UNet calls."),
    "engine.host_hits": ("host_hits", "Adapters found in host memory."),
    "engine.host_misses": ("host_misses", "Adapters read from disk into host memory."),
    "engine.slot_hits": ("slot_hits", "Adapters found on the device."),
    "engine.slot_misses": ("slot_misses", "Adapters copied to the device."),
    "engine.slot_evictions": ("slot_evictions", "Adapters dropped from the device."),
    "engine.swap_seconds": ("swap_seconds", "Seconds spent copying adapters to the device."),
    "engine.prompt_hits": ("prompt_hits", "Prompts whose encoding was cached."),
    "engine.prompt_misses": ("prompt_misses", "Prompts encoded."),
    "resolver.hits": ("resolver_hits", "Adapter names answered from the cache."),
    "resolver.misses": ("resolver_misses", "Adapter names looked up in the registry."),
    "resolver.stale": ("resolver_stale", "Adapter names answered by expired answers: the registry was down."),
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
        """A metric family for each count, with a sample for each replica."""
        yield from self._families(GaugeMetricFamily, GAUGES)
        yield from self._families(CounterMetricFamily, COUNTERS)

    def _families(self, kind: Any, table: dict[str, tuple[str, str]]) -> Iterator[Metric]:
        for path, (name, help_text) in table.items():
            family = kind(f"lorafleet_{name}", help_text, labels=["replica"])
            for stats in self.stats:
                family.add_metric([stats.replica], attrgetter(path)(stats))
            yield family


class HttpMetrics:
    """Requests by route and status, and how long they took, in one ingress process."""

    def __init__(self, ingress: str) -> None:
        self.registry = CollectorRegistry()
        self._ingress = ingress
        self._requests = Counter(
            "lorafleet_http_requests",
            "Requests answered; status 499: the client disconnected.",
            ["ingress", "method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "lorafleet_http_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ["ingress", "method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: str, seconds: float) -> None:
        """Counts one request."""
        self._requests.labels(self._ingress, method, route, status).inc()
        self._seconds.labels(self._ingress, method, route).observe(seconds)


class Metered:
    """ASGI middleware that counts requests."""

    def __init__(self, app: Any, metrics: HttpMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes everything on unchanged."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = CLIENT_CLOSED_REQUEST, time.perf_counter()

        async def send_and_note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # no label for paths that clients make up
            self.metrics.answered(scope["method"], route, status, time.perf_counter() - started)


def exposition(http: HttpMetrics, stats: Sequence[ReplicaStats]) -> bytes:
    """All metrics in Prometheus' text format."""
    replicas = CollectorRegistry()
    replicas.register(Replicas(stats))
    return generate_latest(http.registry) + generate_latest(replicas)
