"""48 subjects, two of them bad, one manifest, two lanes: the script that records it for the documentation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "recording.py"


@pytest.mark.slow
def test_46_of_48_succeed_and_the_bad_two_are_named(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, "--out", tmp_path, "--steps", "8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    head, *events = map(json.loads, (tmp_path / "fanout.cast").read_text().splitlines())
    assert head["version"] == 2
    assert [kind for _, kind, _ in events] == ["o"] * len(events)
    assert "46 succeeded".replace(" ", "&#160;") in (tmp_path / "fanout.svg").read_text()
