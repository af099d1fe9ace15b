"""Jobs train while everything around them is killed: `benchmarks/chaos/chaos.py`, as a test."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos" / "chaos.py"


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_every_job_succeeds_once_with_the_same_bits_whatever_is_killed(request):
    if not request.config.getoption("--chaos"):
        pytest.skip("run by ./dev test --chaos")
    command = [sys.executable, SCRIPT, "--kills", str(request.config.getoption("--kills"))]
    if request.config.getoption("--postgres"):
        result = SCRIPT.parents[1] / "results" / "chaos-postgresql.json"
        command += ["--database", request.getfixturevalue("empty_postgres"), "--out", result]
    assert subprocess.run(command).returncode == 0
