"""The settings of a server, from `lorafleet serve` or serve.yaml; defaults depend on this machine and cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lorafleet.bases import Base, find_base
from lorafleet.bundle.disk_cache import CAPACITY
from lorafleet.bundle.ports import AdapterRegistry
from lorafleet.config.strict import Strict
from lorafleet.home import Home
from lorafleet.util.addresses import tracking_address
from lorafleet_serve.adapters.resolver import Freshness
from lorafleet_serve.engine.scheduler import check_step_limit

GIB = 2**30


def _host(host: str) -> str:
    if re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+)(:\d{1,5})?", host) is None:
        raise ValueError("allowed are HOST and HOST:PORT, as in hooks.internal:8080, without http:// and path")
    return host


class ServeArgs(Strict):
    """The settings in `lorafleet serve` and serve.yaml; unset values are decided where the application is built."""

    base: str = "toy-playground"
    max_rows: Annotated[int, Field(ge=1, le=256)] = 8
    """Images that a replica denoises at the same time."""
    max_step_ms: Annotated[float, Field(gt=0)] | None = None
    """Milliseconds that a step may take: fewer images step together where it would take longer."""
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = 64
    """Images that may wait in a replica in addition to `max_rows`; further requests are answered 429."""
    exact: bool = False
    """A UNet call for each image: slower, and each image the same to the bit whatever else is being made."""
    capture: bool = True
    """On a GPU, steps are recorded as CUDA graphs and replayed; false if a driver misbehaves with them."""
    slot_gib: Annotated[float, Field(gt=0)] = 4.0
    """Adapters kept on the device, in GiB."""
    host_gib: Annotated[float, Field(gt=0)] = 8.0
    """Adapters kept in host memory, in GiB."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Engines, each with its own copy of the base."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Engines are added up to this number while more images are asked for than run at once; by default none are."""
    gpus_per_replica: Annotated[float, Field(gt=0, le=64)] = 1.0
    """GPUs of each engine; with a fraction several engines share one."""
    device: Literal["cpu", "cuda"] | None = None
    """By default cuda if the cluster has a GPU, else cpu."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """By default fp32 on a CPU and fp16 on a GPU."""
    tracking_uri: str | None = None
    """Where adapters are registered; the home's MLflow by default."""
    cache: str | None = None
    """The folder of downloaded bundles; under the home by default."""
    cache_gib: Annotated[float, Field(gt=0)] = CAPACITY / GIB
    """Size of that folder, in GiB; the least recently used bundles are dropped first, those in use never."""
    alias_ttl: Annotated[float, Field(ge=0)] = Freshness.alias_ttl
    """Seconds after which aliases such as `champion` are looked up again, and removed versions are noticed."""
    stale_for: Annotated[float, Field(ge=0)] = Freshness.stale_for
    """Seconds for which the last answers are used while the registry does not answer."""
    accept_any_model: bool = False
    """Names of models that clients send when nobody told them one, as dall-e-3 and gpt-image-1, mean the base."""
    auto_adapters: bool = False
    """The trigger of a registered adapter in a prompt, as `<dog-rex>`, adds the adapter at scale 1."""
    webhook_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = ()
    """Hosts whose addresses jobs may have told of their end, as HOST or HOST:PORT; by default none."""
    home: str | None = None
    """The home in which added bases have their names; this process's by default."""
    bundles: str | None = None
    """A folder of bundles to serve instead of a registry."""

    @model_validator(mode="after")
    def _exact_has_no_step_limit(self) -> ServeArgs:
        check_step_limit(self.max_step_ms, self.exact)
        return self

    @model_validator(mode="after")
    def _max_replicas_is_the_larger(self) -> ServeArgs:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}; at least replicas, {self.replicas}, are allowed")
        return self

    @property
    def most_replicas(self) -> int:
        """The largest number of engines that there can be."""
        return self.max_replicas or self.replicas

    def with_defaults(self) -> ServeArgs:
        """A copy with every unset value filled in for this machine and cluster, and addresses absolute."""
        home = Home.from_environment()
        device = self.device or ("cuda" if _cluster_has_gpu() else "cpu")
        return self.with_changes(
            device=device,
            precision=self.precision or ("fp16" if device == "cuda" else "fp32"),
            tracking_uri=self._tracking_uri(home),
            cache=self.cache or str(home.adapter_cache),
            home=self.home or str(home.root),
        )

    def _tracking_uri(self, home: Home) -> str | None:
        if self.bundles is not None:
            return None  # MLflow is not used
        return tracking_address(self.tracking_uri, "tracking_uri") if self.tracking_uri else home.tracking_uri

    def find_base(self) -> Base:
        """The base that is served. Raises BaseModelError."""
        return find_base(self.base, home=Home(Path(self.home)) if self.home else None)

    def registry(self) -> AdapterRegistry:
        """The registry that finds adapters by name."""
        if self.bundles is not None:
            from lorafleet.bundle.folder_registry import FolderRegistry

            return FolderRegistry(Path(self.bundles))
        from lorafleet.tracking import MlflowRegistry

        args = self.with_defaults()
        return MlflowRegistry(str(args.tracking_uri), Path(str(args.cache)), int(args.cache_gib * GIB), base=args.base)


def _cluster_has_gpu() -> bool:
    import ray  # takes seconds, and a mistyped option should be answered at once

    return bool(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1)
