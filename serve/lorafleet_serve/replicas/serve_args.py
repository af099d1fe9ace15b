"""What a server is told by `lorafleet serve` or serve.yaml; this machine and cluster decide the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lorafleet.bundle.disk_cache import CAPACITY
from lorafleet.bundle.ports import AdapterRegistry
from lorafleet.config.strict import Strict
from lorafleet.home import Home
from lorafleet.util.addresses import tracking_address
from lorafleet_serve.adapters.resolver import Freshness

GIB = 2**30


class ServeArgs(Strict):
    """What `lorafleet serve` and serve.yaml say; unset values are decided where the application is built."""

    base: str = "toy-playground"
    max_rows: Annotated[int, Field(ge=1, le=256)] = 8
    """Images that a replica denoises at the same time."""
    max_step_ms: Annotated[float, Field(gt=0)] | None = None
    """Milliseconds that a step may take: fewer images share it where it would take longer."""
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = 64
    """Images that may wait in a replica beyond those; more are answered 429."""
    exact: bool = False
    """A UNet call for each image: slower, as images take turns, and the same to the bit whatever else is made."""
    slot_gib: Annotated[float, Field(gt=0)] = 4.0
    """Adapters kept on the device, in GiB."""
    host_gib: Annotated[float, Field(gt=0)] = 8.0
    """Adapters kept in host memory, in GiB."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Engines, each with a base of its own."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """With more images than run at once, engines are added up to so many; by default none are."""
    gpus_per_replica: Annotated[float, Field(gt=0, le=64)] = 1.0
    """May be a fraction: several engines then share a GPU."""
    device: Literal["cpu", "cuda"] | None = None
    """The GPU if the cluster has one."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """fp32 on a CPU, fp16 on a GPU."""
    tracking_uri: str | None = None
    """Where adapters are registered; the home's MLflow by default."""
    cache: str | None = None
    """Where fetched bundles are kept; under the home by default."""
    cache_gib: Annotated[float, Field(gt=0)] = CAPACITY / GIB
    """Of such bundles; the least recently used go first, those in use never."""
    alias_ttl: Annotated[float, Field(ge=0)] = Freshness.alias_ttl
    """Seconds until an alias such as `champion` is asked for again; a promotion reaches requests within these."""
    stale_for: Annotated[float, Field(ge=0)] = Freshness.stale_for
    """Seconds for which adapters known before are served while the registry does not answer."""
    bundles: str | None = None
    """A folder of bundles to serve instead of a registry."""

    @model_validator(mode="after")
    def _exact_steps_are_one_image(self) -> ServeArgs:
        if self.exact and self.max_step_ms is not None:
            raise ValueError("max_step_ms does not fit exact, where a step is one image's call already; leave it out")
        return self

    @model_validator(mode="after")
    def _more_replicas_are_more(self) -> ServeArgs:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; at least replicas, {self.replicas}, are allowed")
        return self

    @property
    def most_replicas(self) -> int:
        """How many there may come to be."""
        return self.max_replicas or self.replicas

    def settled(self) -> ServeArgs:
        """A copy with every unset value decided for this machine and cluster, and addresses absolute."""
        home = Home.from_environment()
        device = self.device or ("cuda" if _cluster_has_gpu() else "cpu")
        return self.with_changes(
            device=device,
            precision=self.precision or ("fp16" if device == "cuda" else "fp32"),
            tracking_uri=self._tracking_uri(home),
            cache=self.cache or str(home.adapter_cache),
        )

    def _tracking_uri(self, home: Home) -> str | None:
        if self.bundles is not None:
            return None  # nobody asks MLflow
        return tracking_address(self.tracking_uri, "tracking_uri") if self.tracking_uri else home.tracking_uri

    def registry(self) -> AdapterRegistry:
        """Where adapters are found by name."""
        if self.bundles is not None:
            from lorafleet.bundle.folder_registry import FolderRegistry

            return FolderRegistry(Path(self.bundles))
        from lorafleet.tracking import MlflowRegistry

        settled = self.settled()
        return MlflowRegistry(str(settled.tracking_uri), Path(str(settled.cache)), int(settled.cache_gib * GIB))


def _cluster_has_gpu() -> bool:
    import ray  # takes seconds, and a mistyped option should be answered at once

    return bool(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1)
