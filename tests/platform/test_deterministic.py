"""What `exact` sets in a process, seen from outside it: the settings last as long as the process does."""

import os
import subprocess
import sys

import pytest

SETTINGS = """
import os, sys
import lorafleet.deterministic
assert "torch" not in sys.modules
lorafleet.deterministic.use_deterministic_algorithms(sys.argv[1])
import torch
print(torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory,
      torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
"""
SUMS = """
import torch
from lorafleet.deterministic import use_deterministic_algorithms

torch.set_num_threads(4)
rows, index = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20_000) % 3
use_deterministic_algorithms("cpu")
sums = {torch.zeros(3, 8).index_put_((index,), rows, accumulate=True).numpy().tobytes() for _ in range(5)}
one_by_one = torch.zeros(3, 8)
for i, row in zip(index.tolist(), rows):
    one_by_one[i] += row
assert sums == {one_by_one.numpy().tobytes()}
"""


def run(code, *arguments, **environment):
    where = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"} | environment
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("device", "environment", "settings"),
    [
        ("cuda:1", {}, "True False True False :4096:8"),
        ("cuda", {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}, "True False True False :16:8"),
        ("cuda", {"CUBLAS_WORKSPACE_CONFIG": ":8192:2"}, "True False True False :4096:8"),
        ("cpu", {}, "True False False False None"),
    ],
)
def test_what_is_set(device, environment, settings):
    assert run(SETTINGS, device, **environment) == settings.split()


def test_threads_that_add_to_one_row_add_in_order():
    """Without the setting, four threads add in whatever order they come."""
    run(SUMS)
