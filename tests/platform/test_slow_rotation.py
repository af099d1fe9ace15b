"""Slow tests within a budget: what changed first, then all in turns, in any kind of clone."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slow_rotation as rotation

TESTS = Path(__file__).parents[1]
DAY = datetime.date(2026, 11, 27)
COSTS = st.dictionaries(st.sampled_from([f"tests/platform/test_{i}.py::test" for i in range(9)]), st.floats(1, 100))


@given(COSTS, st.integers(0, 10**6), st.floats(0, 300))
def test_what_is_chosen_fits_and_nothing_more_would(costs, turn, budget):
    choice = rotation.choose(costs, [], turn, budget)
    left = budget - sum(costs[test] for test in choice.run)
    assert left >= -1e-9
    assert sorted(choice.run + choice.left_out) == sorted(costs)
    assert all(costs[test] > left - 1e-9 for test in choice.left_out)


@given(COSTS, st.integers(0, 10**6), st.floats(100, 300))
def test_over_as_many_runs_as_there_are_tests_every_test_runs(costs, turn, budget):
    runs = [rotation.choose(costs, [], turn + i, budget).run for i in range(len(costs))]
    assert {test for run in runs for test in run} == set(costs)


def test_what_changed_comes_first_whoever_s_turn_it_is():
    costs = {
        "tests/serve/engine/test_traffic.py::a": 60,
        "tests/jobs/train/packs/test_pack.py::b": 60,
        "tests/jobs/test_new.py::c": 60,
    }
    changed = {"serve/lorafleet_serve/engine/engine.py", "docs/log.md"}
    for turn in range(3):
        assert rotation.choose(costs, changed, turn, 60).run == ["tests/serve/engine/test_traffic.py::a"]
    assert rotation.is_touched("tests/jobs/test_new.py::c", {"jobs/lorafleet_jobs/lane/lane.py"})  # its room's code
    assert rotation.is_touched("tests/jobs/train/packs/test_pack.py::b", {"tests/jobs/train/packs/test_pack.py"})
    assert not rotation.is_touched("tests/jobs/train/packs/test_pack.py::b", {"jobs/lorafleet_jobs/lane/lane.py"})


def test_every_file_and_folder_of_the_table_exists():
    places = [*rotation.TOUCHED_BY, *(place for code in rotation.TOUCHED_BY.values() for place in code)]
    assert [place for place in places if not (rotation.ROOT / place).exists()] == []


def git(folder, *words, date="2026-11-20T12:00:00+00:00"):
    person = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, env=os.environ | person | dates)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_changes_are_those_of_the_last_day_of_commits_in_whole_and_in_shallow_clones(tmp_path):
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "-q")
    for name, date in (("a", "2026-11-01"), ("b", "2026-11-19T13:00:00"), ("c", "2026-11-20T12:00:00")):
        (origin / name).write_text(name)
        git(origin, "add", name)
        git(origin, "commit", "-qm", name, date=f"{date}+00:00" if "T" in date else f"{date}T00:00:00+00:00")
    assert rotation.changed_files(origin) == {"b", "c"}
    assert rotation.turn_of(origin, DAY) == 3 + DAY.toordinal()
    git(tmp_path, "clone", "-q", "--depth", "1", origin.as_uri(), "shallow")
    assert rotation.changed_files(tmp_path / "shallow") == {"a", "b", "c"}  # one commit that made everything
    assert rotation.turn_of(tmp_path / "shallow", DAY) == 1 + DAY.toordinal()


def test_without_a_repository_the_day_alone_decides(tmp_path):
    assert rotation.changed_files(tmp_path) == set()
    assert rotation.turn_of(tmp_path, DAY) == DAY.toordinal()


THREE_SLOW = """
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("case", ["short", "long", "unknown"])
def test_case(case):
    pass

def test_quick():
    pass
"""


def run(folder, *arguments):
    """Pytest on a folder with this conftest, three slow tests and their record; its lines."""
    (folder / "tests").mkdir(exist_ok=True)
    for name in ("conftest.py", "slow_rotation.py"):
        shutil.copy(TESTS / name, folder / "tests")
    (folder / "tests" / "test_them.py").write_text(THREE_SLOW)
    (folder / "pytest.ini").write_text("[pytest]\ntimeout = 600\nmarkers = slow\n    gpu\n    chaos\n")
    known = {f"tests/test_them.py::test_case[{case}]": {"seconds": s} for case, s in (("short", 30), ("long", 3000))}
    (folder / "tests" / "slow_seconds.json").write_text(json.dumps(known))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "tests", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_says_what_ran_and_what_was_left_out_and_records_it(tmp_path):
    said = run(tmp_path, "--promises", "--minutes", "5", "--record")
    assert "1 slow tests, 0 min as last measured" in said
    assert "test_case[short] PASSED" in said
    assert "test_quick" not in said
    after = said.partition("left out this time")[2]
    assert "3000.0 s  tests/test_them.py::test_case[long]" in after
    assert "600.0 s  tests/test_them.py::test_case[unknown]" in after  # its time limit
    assert "measure it: ./dev test --slow --record" in after
    record = json.loads((tmp_path / "tests" / "slow_seconds.json").read_text())
    assert record["tests/test_them.py::test_case[short]"].keys() == {"seconds", "machine", "date"}
    assert record["tests/test_them.py::test_case[long]"] == {"seconds": 3000}

    said = run(tmp_path, "--promises", "--minutes", "15")
    assert said.count(" PASSED") == 2
    assert "2 slow tests, 0 min as last measured, and 1 that were never measured" in said


def test_all_slow_tests_are_told_in_advance_and_listed_by_what_they_took(tmp_path):
    said = run(tmp_path)
    assert said.count(" PASSED") == 4
    assert "3 slow tests, 50 min as last measured, and 1 that were never measured" in said
    assert said.partition("slow tests, seconds")[2].count("test_case[") == 3
