"""How the GPU bench takes time and memory, and the bases that it runs on: of SDXL's size, or a toy to try the code."""

from __future__ import annotations

import resource
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from sdxl_random import sdxl_random

FORWARD_TFLOP = {512: 1.589, 1024: 6.761}
"""Of SDXL's UNet for one row, a multiplication and an addition counted as two."""
BLOCKS = 3


@dataclass(frozen=True)
class Place:
    """The device and the folder that the bench may write to."""

    device: str
    folder: Path
    dry: bool
    """A toy base stands for SDXL, and everything is small."""
    tflops: float
    """Of bf16 matrix products, measured."""

    def base(self) -> LoadedBase:
        """A base of SDXL's size in bf16, its weights random."""
        if self.dry:
            return LoadedBase.load(find_base("toy-sdxl"), self.device)
        return sdxl_random(self.folder / "base", torch.bfloat16, self.device)

    def pixels(self, wanted: int) -> int:
        """Of a side."""
        return 32 if self.dry else wanted

    def floor_ms(self, pixels: int, forwards: float) -> float | None:
        """So many forward passes of one row of the UNet, at the measured rate."""
        if pixels not in FORWARD_TFLOP:
            return None
        return 1000 * forwards * FORWARD_TFLOP[pixels] / self.tflops

    def milliseconds(self, step: Callable[[], object], steps: int = 4) -> float:
        """Of one step: the median of some blocks of steps, waiting for the device only after each block."""
        blocks = []
        for _ in range(1 if self.dry else BLOCKS):
            started = self.now()
            for _ in range(1 if self.dry else steps):
                step()
            blocks.append((self.now() - started) / (1 if self.dry else steps))
        return 1000 * statistics.median(blocks)

    def seconds(self, action: Callable[[], object]) -> float:
        """Of one call, all its kernels finished."""
        started = self.now()
        action()
        return self.now() - started

    def now(self) -> float:
        """Seconds, once everything on the device is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def forget_peak(self) -> None:
        """From now on the peak is counted anew."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float:
        """Held by the allocator at most, graphs included; on a CPU by the whole process."""
        if self.device == "cuda":
            return torch.cuda.max_memory_reserved() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def syncs(self, step: Callable[[], object]) -> float | None:
        """How often one step waits for the device, as torch counts it; None on a CPU."""
        if self.device != "cuda":
            return None
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return float(sum("synchronizing" in str(each.message) for each in caught))


def matmul_tflops(device: str) -> float:
    """The best of ten bf16 products of square matrices, in TFLOP/s."""
    n = 8192 if device == "cuda" else 512
    A, B = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    place = Place(device, Path(), dry=True, tflops=0.0)
    return 2 * n**3 / min([place.seconds(lambda: A @ B) for _ in range(12)][2:]) / 1e12
