"""What it takes to bring an adapter from host memory to its slot and into a batch, beside a plain copy of its bytes.

Part of `serve.py` and `gpu.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lorafleet.bundle.folder_registry import version_of
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapter, HostLoader
from lorafleet_serve.engine.batch_layout import BatchLayout
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.request_state import RequestState, make_row
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest, with_defaults
from lorafleet_serve.engine.rows import Row
from lorafleet_serve.stats import Counts
from lorafleet_serve.worker_thread import synchronize


@dataclass(frozen=True)
class Swap:
    """Milliseconds, medians."""

    rank: int
    nbytes: int
    """On the UNet."""
    slot: float
    """From host memory to the adapter's slot, another going for it. On a CPU both are the same memory."""
    seat: float
    """From the slot to the row's position in the batch, where it stays while the row runs."""
    copy: float
    """A plain copy of its tensors from host memory to memory on the device that is there already."""

    @property
    def slot_times(self) -> float:
        """The slot against the plain copy; on a CPU, where nothing is copied for it, it says little."""
        return self.slot / self.copy

    @property
    def seat_times(self) -> float:
        """The position against the plain copy: some fixed cost, and columns between which others lie."""
        return self.seat / self.copy

    def report(self) -> dict[str, float]:
        """All of it."""
        return {**asdict(self), "slot_times_copy": self.slot_times, "seat_times_copy": self.seat_times}


def host_of(model: Pipeline, bundle: Path) -> HostAdapter:
    """A bundle in host memory, as the engine has it."""
    return HostLoader(model.loaded, model.columns)((str(bundle), 0))


def row_of(
    model: Pipeline,
    device_cache: DeviceAdapterCache,
    bundle: Path,
    host: HostAdapter,
    request: GenerateRequest,
    number: int,
) -> Row:
    """A row ready to step, its adapter leased."""
    load: Future[HostAdapter] = Future()
    load.set_result(host)
    device_cache.lease([host])
    settings = with_defaults(request, model.base, model.samplers)
    return make_row(RequestState(number, settings, (load,), Future()), model, device_cache)


def using(bundle: Path) -> tuple[AdapterUse, ...]:
    """A request's adapters: this one."""
    return (AdapterUse(version_of(bundle)),)


def swap(model: Pipeline, two: Sequence[Path], times: int) -> Swap:
    """Two adapters of one rank that take turns."""
    device, hosts = model.loaded.device, [host_of(model, bundle) for bundle in two]
    flats = [host.flat for host in hosts if host.flat is not None]
    small, large = (DeviceAdapterCache(device, n * flats[0].nbytes, Counts()) for n in (1, 2))
    requests = [GenerateRequest("a mug", i, adapters=using(bundle), steps=1) for i, bundle in enumerate(two)]
    rows = [row_of(model, large, *each, i) for i, each in enumerate(zip(two, hosts, requests, strict=True))]
    layout = BatchLayout(model.columns, **model.placement)
    there = [torch.empty_like(tensor, device=device) for tensor in flats[0].factors.tensors()]

    def to_slot(i: int) -> None:
        small.lease([hosts[i % 2]])
        small.release([hosts[i % 2]])

    def plain_copy(i: int) -> None:
        for target, tensor in zip(there, flats[i % 2].factors.tensors(), strict=True):
            target.copy_(tensor, non_blocking=True)

    actions: list[Callable[[int], object]] = [
        to_slot, plain_copy, lambda i: layout.batch([rows[i % 2]]), lambda i: layout.batch([rows[i % 2]])
    ]  # fmt: skip
    taken = [[_milliseconds(action, i, device) for action in actions] for i in range(times)]
    slot, copy, changed, unchanged = (statistics.median(column) for column in zip(*taken[times // 10 :], strict=True))
    return Swap(flats[0].rank, flats[0].nbytes, slot, changed - unchanged, copy)


def _milliseconds(action: Callable[[int], object], i: int, device: torch.device) -> float:
    started = time.perf_counter()
    action(i)
    synchronize(device)
    return 1000 * (time.perf_counter() - started)
