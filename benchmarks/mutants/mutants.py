"""What the tests notice: one deliberate fault at a time in a copy of the tree, and whether any test fails for it.

    ./dev bench mutants                  every mutant of `mutants_*.py` (half an hour on one core)
    ./dev bench mutants prodigy ema      those with one of these words in their names
    ./dev bench mutants --survivors      those that are not known to be caught or equivalent

Each mutant is run against the test files that should notice it, never against the whole suite, so "survived" means
that these did not. A mutant whose text is gone is an error: the list follows the code. Before the mutants their tests
are run once without a fault. Writes `benchmarks/results/mutants.json`; mutants that are not run keep their result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from mutant import Mutant
from mutants_list import MUTANTS

from lorafleet.util.machine import describe_machine

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".lorafleet", "__pycache__", ".*_cache", ".hypothesis")
ONE_TEST_SECONDS = 120
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not chaos", "--no-header")


def run_tests(tree: Path, tests: str) -> tuple[int, str, float]:
    """Pytest's exit code, what it printed, and the seconds it took; its code is that of `tree`."""
    places = os.pathsep.join(str(tree / room) for room in ("platform", "jobs", "serve"))
    environment = os.environ | {"PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *PYTEST, f"--timeout={ONE_TEST_SECONDS}", *tests.split()]
    started = time.monotonic()
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - started


def judged(mutant: Mutant, tree: Path) -> dict[str, Any]:
    """What became of one mutant; the tree is as before afterwards."""
    file = tree / mutant.file
    source = file.read_text()
    file.write_text(source.replace(mutant.old, mutant.new))
    try:
        code, said, seconds = run_tests(tree, mutant.tests)
    finally:
        file.write_text(source)
    if code not in (0, 1, 2):  # 2: a test file could not even be imported
        raise RuntimeError(f"{mutant.name}: pytest ended with {code}\n{said}")
    by = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.M)
    found = {"outcome": "survived" if code == 0 else "caught", "by": by[1] if by else None}
    when = {"seconds": round(seconds, 1), "date": datetime.date.today().isoformat()}
    return vars(mutant) | found | when | {"timed_out": code != 0 and "Failed: Timeout" in said}


def chosen(words: list[str], survivors: bool, before: dict[str, Any]) -> list[Mutant]:
    """The mutants that were asked for."""
    named = [one for one in MUTANTS if not words or any(word in one.name for word in words)]
    settled = {name for name, one in before.items() if one["outcome"] == "caught" or one["equivalent"]}
    return [one for one in named if not survivors or one.name not in settled]


def check_texts(mutants: list[Mutant]) -> None:
    """Ends the program if the text of a mutant does not stand in its file once."""
    for mutant in mutants:
        if (times := (ROOT / mutant.file).read_text().count(mutant.old)) != 1:
            sys.exit(f"{mutant.name}: its text is {times} times in {mutant.file}; correct the mutant")


def check_without_fault(tree: Path, mutants: list[Mutant]) -> None:
    """Ends the program if tests fail with nothing changed: they would fail with every mutant."""
    tests = dict.fromkeys(one for mutant in mutants for one in mutant.tests.split())
    code, said, seconds = run_tests(tree, " ".join(tests))
    if code:
        sys.exit(f"{said}\nwithout a fault these tests must pass")
    print(f"{seconds:6.1f} s  all pass without a fault", flush=True)


def main() -> None:
    """Runs and writes down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="words of the mutants' names; all without")
    parser.add_argument("--survivors", action="store_true", help="those not known to be caught or equivalent")
    parser.add_argument("--no-baseline", action="store_true", help="the tests are known to pass")
    arguments = parser.parse_args()
    os.nice(5)
    results = {one["name"]: one for one in json.loads(RESULT.read_text())["mutants"]} if RESULT.exists() else {}
    if not (mutants := chosen(arguments.words, arguments.survivors, results)):
        sys.exit(f"no mutant's name holds {' or '.join(arguments.words)}")
    check_texts(mutants)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        if not arguments.no_baseline:
            check_without_fault(tree, mutants)
        for mutant in mutants:
            results[mutant.name] = one = judged(mutant, tree)
            print(f"{one['seconds']:6.1f} s  {one['outcome']:8}  {mutant.name}  {one['by'] or ''}", flush=True)
            save([results[known.name] for known in MUTANTS if known.name in results])
    left = [one["name"] for one in results.values() if one["outcome"] == "survived" and not one["equivalent"]]
    print(f"{len(results)} mutants, {len(left)} survived:", *left, sep="\n  ")


def save(mutants: list[dict[str, Any]]) -> None:
    """All results so far."""
    said = {"machine": describe_machine(), "torch": torch.__version__, "mutants": mutants}
    RESULT.write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
