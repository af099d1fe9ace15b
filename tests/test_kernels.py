"""Promises of bits, kept under every choice of kernels that this processor has: so one machine speaks for others.

Libraries choose by the processor which code computes a product, and with it in which order numbers are added. Where a
row's bits depend on its place in a batch, they do so under some choices only: on an Intel Xeon under MKL's COMPATIBLE,
on an AMD EPYC by default. Each test file below is run again, in a process of its own, under each choice.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = ("serve/engine/test_exact.py", "jobs/train/packs/test_exact_training.py")
"""Whose tests compare bits."""
PLAINEST = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
CHOICES = {
    "plainest": PLAINEST,
    **{f"{name}={value}": {name: value} for name, value in PLAINEST.items()},
    "ATEN_CPU_CAPABILITY=avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL_CBWR=AVX2": {"MKL_CBWR": "AVX2"},
    "ONEDNN_MAX_CPU_ISA=AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}
"""By name: environments. All three plainest at once stand for the others where time is short."""
SHORT = "plainest"


def run(arguments, choice):
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | CHOICES[choice], cwd=HERE.parent, capture_output=True, text=True
    )


@pytest.mark.parametrize("choice", [pytest.param(c, marks=() if c == SHORT else pytest.mark.slow) for c in CHOICES])
@pytest.mark.parametrize("file", FILES)
def test_bits_are_kept_whatever_kernels_are_chosen(file, choice):
    some = ["-m", "not slow and not gpu", "-k", "not toy-playground"] if choice == SHORT else ["-m", "not gpu"]
    done = run(["-m", "pytest", "-p", "no:cacheprovider", "-x", *some, str(HERE / file)], choice)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are names of x86's kernels")
@pytest.mark.parametrize("choice", [SHORT, "ATEN_CPU_CAPABILITY=avx2"])
def test_a_choice_is_heard(choice):
    done = run(["-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"], choice)
    assert done.stdout.strip() == CHOICES[choice]["ATEN_CPU_CAPABILITY"].upper()
