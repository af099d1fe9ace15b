"""The script for whoever has a GPU: all of it runs where there is none, on toy bases, graphs replaced by calls."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks" / "gpu"))
from gpu_report import Cell, Check, Figure, Report, Task  # noqa: E402


def bench(out: Path, *options: str) -> dict[str, object]:
    command = [sys.executable, "benchmarks/gpu/gpu.py", "--dry", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ray" not in done.stderr
    document: dict[str, object] = json.loads(out.read_text())
    return document


@pytest.mark.slow
def test_all_of_it_runs_and_is_right(tmp_path):
    document = bench(tmp_path / "gpu.json")
    assert document["failed"] == {}
    assert document["left_out"] == []
    assert len(document["checks"]) == 5
    assert all(check["found"] <= check["bar"] for check in document["checks"])
    assert {cell["rows"] for cell in document["cells"]} == {1, 2, 3, 4, 8}
    assert all(cell["ms"] > 0 for cell in document["cells"])
    assert {figure["unit"] for figure in document["figures"]} == {"TFLOP/s", "images/s", "times", "ms"}


def test_it_needs_neither_ray_nor_mlflow():
    modules = "gpu_checks, gpu_training, gpu_serving, sys"
    code = f"import {modules}; print([name for name in ('ray', 'mlflow', 'fastapi') if name in sys.modules])"
    folders = [ROOT / "benchmarks" / "gpu", ROOT / "benchmarks", ROOT / "tools", *map(Path, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"


def test_a_task_that_fails_says_why_and_ends_nothing(tmp_path, capsys):
    def fails():
        raise RuntimeError("no kernel\nfor this")

    report = Report(1.0, tmp_path / "r.json", "cpu")
    report.run(Task("first", 0, fails))
    report.run(Task("second", 0, lambda: [Check("rounding", 0.5, 0.1), Figure("speed", 2.0, "images/s")]))
    assert json.loads((tmp_path / "r.json").read_text())["failed"] == {"first": "no kernel"}
    table = report.table()
    assert "WRONG  rounding: 0.5 (at most 0.1)" in table
    assert "FAILED first: no kernel" in table
    assert "speed: 2 images/s" in capsys.readouterr().out


def test_what_does_not_fit_in_the_time_is_left_out_and_named(tmp_path):
    report = Report(0.1, tmp_path / "r.json", "cpu")
    started = time.monotonic()
    report.run(Task("long", 60, lambda: time.sleep(60)))
    report.run(Task("short", 0.0, lambda: [Cell("steps", 1024, 2, 30.0, 1.0, 10.0, 4.0)]))
    assert time.monotonic() - started < 30
    assert "no time for: long" in report.table()
    assert "15.0     10.0    3.0x" in report.table(), "milliseconds a row, the floor, and how many times it"
