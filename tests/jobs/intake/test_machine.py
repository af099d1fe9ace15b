"""Whose memory a lane has: what a program or the driver says, what the manifest says, or what is assumed."""

from pathlib import Path

import pytest

from lorafleet.config import Resources
from lorafleet_jobs.intake.machine import ASSUMED_GPU_MIB, Device, Machine, gpu_memory_here

TWO = Machine(cpus=16, gpus=2, gpu_memory_mib=(24564.0, 16380.0))


def program(folder: Path, says: str, code: int = 0) -> str:
    """A program that prints what nvidia-smi would, if it is asked as nvidia-smi is."""
    path = folder / "nvidia-smi"
    wanted = "--query-gpu=memory.total --format=csv,noheader,nounits"
    path.write_text(f"#!/bin/sh\n[ \"$*\" = '{wanted}' ] || exit 9\nprintf '{says}'\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def driver(folder: Path, *models: str) -> Path:
    for n, model in enumerate(models):
        (folder / f"0000:0{n}:00.0").mkdir(parents=True)
        (folder / f"0000:0{n}:00.0" / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 16\n")
    return folder


def test_nvidia_smi_is_asked(tmp_path: Path) -> None:
    found = gpu_memory_here(program(tmp_path, "81559\\n24564\\n"), tmp_path / "none")
    assert found == ((81559.0, 24564.0), "nvidia-smi")


@pytest.mark.parametrize(("says", "code"), [("[N/A]\\n", 0), ("", 0), ("81559\\n", 1), ("No devices were found", 6)])
def test_a_program_that_does_not_know_is_passed_over(tmp_path: Path, says: str, code: int) -> None:
    assert gpu_memory_here(program(tmp_path, says, code), tmp_path / "none") == ((), "")
    named = driver(tmp_path / "gpus", "NVIDIA A100-SXM4-80GB")
    assert gpu_memory_here(program(tmp_path, says, code), named) == ((81920.0,), "the NVIDIA driver")


@pytest.mark.parametrize(
    ("models", "mib"),
    [
        (["NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-32GB"], (81920.0, 32768.0)),
        (["NVIDIA GeForce RTX 4090"], ()),
        (["NVIDIA A100-PCIE-40GB", "NVIDIA H200"], ()),
        ([], ()),
    ],
)
def test_without_the_program_some_models_tell_by_their_names(
    tmp_path: Path, models: list[str], mib: tuple[float, ...]
) -> None:
    assert gpu_memory_here("no-such-program-here", driver(tmp_path, *models))[0] == mib


@pytest.mark.parametrize(
    ("machine", "resources", "device"),
    [
        (TWO, {}, Device(True, 16380.0, "nvidia-smi")),
        (TWO, {"gpus_per_lane": 0.5}, Device(True, 8190.0, "nvidia-smi")),
        (TWO, {"gpus_per_lane": 2}, Device(True, 16380.0, "nvidia-smi")),
        (TWO, {"gpu_memory_gib": 80}, Device(True, 81920.0, "resources.gpu_memory_gib")),
        (TWO, {"gpus_per_lane": 0, "lanes": 2}, Device(False, 2457.6, "this machine")),
        (Machine(8, 1), {}, Device(True, ASSUMED_GPU_MIB, "assumed")),
        (Machine(8, 0), {"gpus_per_lane": 1}, Device(True, ASSUMED_GPU_MIB, "assumed")),
        (Machine(8, 0), {"gpu_memory_gib": 24}, Device(True, 24576.0, "resources.gpu_memory_gib")),
        (Machine(8, 0, memory_mib=1000.0), {}, Device(False, 600.0, "this machine")),
    ],
)
def test_what_a_lane_has(machine: Machine, resources: dict[str, float], device: Device) -> None:
    found = machine.device(Resources(**resources))
    assert (found.on_gpu, found.source) == (device.on_gpu, device.source)
    assert found.mib == pytest.approx(device.mib)
    assert found.is_assumed == (device.source == "assumed")


def test_this_machine_is_read_without_torch() -> None:
    here = Machine.here()
    assert here.cpus >= 1
    assert here.memory_mib > 256
    assert len(here.gpu_memory_mib) in (0, here.gpus)
