"""What lanes run on: cores, memory, and the GPUs with theirs, read without torch.

A cluster's GPUs are not seen from a machine that has none; the manifest can name their memory. Refuses to know what
fits (`choose`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from lorafleet.config import Resources

ASSUMED_GPU_MIB = 22_000.0
"""Where nobody says what a GPU has: a card of 24 GB, with something left for others."""
CPU_SHARE = 0.6
"""Of a machine's memory, for all lanes."""
SMI = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
SMI_SECONDS = 10.0
DRIVER = Path("/proc/driver/nvidia/gpus")
_SIZE_IN_NAME = re.compile(r"^Model:.*?\b(\d+) ?GB\b", re.MULTILINE)


@dataclass(frozen=True)
class Device:
    """What one lane has for itself."""

    on_gpu: bool
    mib: float
    """Memory, a lane's share where lanes share."""
    source: str
    """Who says so: nvidia-smi, the driver, the manifest's key, this machine, or "assumed"."""

    @property
    def is_assumed(self) -> bool:
        """Whether nobody knows the GPU's memory."""
        return self.source == "assumed"


@dataclass(frozen=True)
class Machine:
    """The cores and GPUs that lanes can use."""

    cpus: int
    gpus: int
    memory_mib: float = 8192.0
    """Of the machine; its GPUs have their own."""
    gpu_memory_mib: tuple[float, ...] = ()
    """Of each GPU; empty where there is none, or where it cannot be read."""
    gpu_source: str = "nvidia-smi"
    """Where `gpu_memory_mib` was read."""

    @classmethod
    def here(cls) -> Machine:
        """What is here: the cores this process may use, its memory, the NVIDIA device files and their memory."""
        gpus = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
        memory = psutil.virtual_memory().total / 2**20
        gpu_memory, source = gpu_memory_here() if gpus else ((), "")
        return cls(len(os.sched_getaffinity(0)), gpus, memory, gpu_memory, source)

    def uses_gpus(self, resources: Resources) -> bool:
        """Whether lanes hold GPUs: as the manifest says, else if there are any or it tells their memory."""
        if resources.gpus_per_lane is not None:
            return resources.gpus_per_lane > 0
        return self.gpus > 0 or resources.gpu_memory_gib is not None

    def lanes_at_once(self, resources: Resources, workers: int = 1) -> int:
        """How many lanes of so many workers fit side by side; at least one."""
        fit = self.cpus // (resources.cpus_per_lane * workers)
        per_lane = resources.gpus_per_lane if resources.gpus_per_lane is not None else float(self.gpus > 0)
        if per_lane > 0:
            fit = min(fit, int(self.gpus / (per_lane * workers)))
        return max(1, min(fit, resources.lanes))

    def device(self, resources: Resources, workers: int = 1) -> Device:
        """What each lane has: its part of the smallest GPU, or of this machine's memory."""
        if not self.uses_gpus(resources):
            share = CPU_SHARE / self.lanes_at_once(resources, workers)
            return Device(False, self.memory_mib * share, "this machine")
        share = min(1.0, resources.gpus_per_lane or 1.0)
        if resources.gpu_memory_gib is not None:
            return Device(True, share * resources.gpu_memory_gib * 1024, "resources.gpu_memory_gib")
        if self.gpu_memory_mib:
            return Device(True, share * min(self.gpu_memory_mib), self.gpu_source)
        return Device(True, share * ASSUMED_GPU_MIB, "assumed")


def gpu_memory_here(program: str = SMI[0], driver: Path = DRIVER) -> tuple[tuple[float, ...], str]:
    """MiB of each GPU here, and where that was read; nothing where neither the program nor the driver says it.

    The driver's folder has no sizes, but the names of some models do.
    """
    if (found := shutil.which(program)) is not None and (sizes := _ask(found)):
        return sizes, "nvidia-smi"
    named = [_SIZE_IN_NAME.search(file.read_text()) for file in sorted(driver.glob("*/information"))]
    if named and all(named):
        return tuple(float(match[1]) * 1024 for match in named if match), "the NVIDIA driver"
    return (), ""


def _ask(program: str) -> tuple[float, ...]:
    """What nvidia-smi says; nothing if it fails, or if a GPU has no memory of its own ("[N/A]")."""
    try:
        said = subprocess.run([program, *SMI[1:]], capture_output=True, text=True, timeout=SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
    return tuple(map(float, lines)) if all(line.isdigit() for line in lines) else ()
