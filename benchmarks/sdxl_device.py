"""What the benches of the full SDXL architecture ask of a device: its name, seconds and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from lorafleet.util.machine import describe_machine

T = TypeVar("T")


def device_name(device: str) -> str:
    """An accelerator's own; on a CPU the machine's."""
    return str(torch.cuda.get_device_name()) if device == "cuda" else describe_machine()


def timed(action: Callable[[], T], device: str) -> tuple[float, T]:
    """Seconds, all kernels finished, and what came of it."""
    started = _now(device)
    found = action()
    return _now(device) - started, found


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak(device: str) -> None:
    """From now on the peak is counted anew."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float:
    """On an accelerator since it was last forgotten; on a CPU of the whole process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
