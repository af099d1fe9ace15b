"""Which slow tests run within a budget: those whose code changed first, then the others, taking turns from run to run.

`tests/conftest.py` asks it for `./dev test --promises`, which CI runs, and for how long slow tests take. Knows files,
seconds and turns; refuses to know pytest. How long a test takes is read from `slow_seconds.json`, as it was last
measured (`--record` writes it); one that was never measured counts as long as its own time limit.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_name("slow_seconds.json")
LATELY = datetime.timedelta(hours=24)
"""Before the last commit: what changed in this time is tested first."""

NUMERICS, TRAIN = ("platform/lorafleet/numerics/", "platform/lorafleet/loaded.py"), "jobs/lorafleet_jobs/train/"
ROOMS = {
    "tests/platform/": ("platform/",),
    "tests/jobs/": ("platform/", "jobs/"),
    "tests/serve/": ("platform/", "serve/"),
}
TOUCHED_BY = {
    "tests/jobs/train/packs/test_pack.py": (*NUMERICS, TRAIN),
    "tests/jobs/train/test_parity.py": (*NUMERICS, TRAIN),
    "tests/jobs/train/test_full_sdxl.py": (*NUMERICS, TRAIN),
    "tests/jobs/train/test_toy_learning.py": (*NUMERICS, TRAIN, "platform/lorafleet/toy/"),
    "tests/jobs/submission/test_tracking_outage.py": ("platform/lorafleet/tracking/", f"{TRAIN}job_run.py"),
    "tests/jobs/submission/test_early_stop.py": ("jobs/", "platform/lorafleet/config/sweep.py"),
    "tests/jobs/cluster/test_ray_job.py": ("jobs/lorafleet_jobs/", "deploy/", "pyproject.toml"),
    "tests/serve/engine/test_full_sdxl_serving.py": (*NUMERICS, "serve/"),
    "tests/serve/engine/test_traffic.py": (*NUMERICS, "serve/", "platform/lorafleet/bundle/adapter.py"),
    "tests/serve/replicas/test_ray_serve.py": ("serve/", "deploy/"),
}
"""What the tests of a file are about, beside that file; the whole room's code for a file that is not here."""


@dataclass(frozen=True)
class Choice:
    """What runs, in this order, and what does not."""

    run: list[str]
    left_out: list[str]


def choose(costs: Mapping[str, float], changed: Collection[str], turn: int, budget: float) -> Choice:
    """Of tests with their seconds those that fit in `budget` together; one that does not fit leaves room for others.

    `turn` counts runs: the order starts one test further each time, so that over the runs everything comes first once.
    """
    tests = sorted(costs)
    start = turn % max(1, len(tests))
    ordered = sorted(tests[start:] + tests[:start], key=lambda test: not is_touched(test, changed))
    run, left = [], budget
    for test in ordered:
        if costs[test] <= left:
            run.append(test)
            left -= costs[test]
    return Choice(run, [test for test in ordered if test not in run])


def is_touched(test: str, changed: Collection[str]) -> bool:
    """Whether a changed file is one that the test, by its id, is about."""
    file = test.partition("::")[0]
    room = next((code for tests, code in ROOMS.items() if file.startswith(tests)), ("",))
    prefixes = (file, *TOUCHED_BY.get(file, room))
    return any(path.startswith(prefixes) for path in changed)


def changed_files(root: Path = ROOT) -> set[str]:
    """What the commits of the last day before HEAD touched; none without git. All files for a clone of one commit."""
    last = _git(root, "log", "-1", "--format=%cI").strip()
    if not last:
        return set()
    since = datetime.datetime.fromisoformat(last) - LATELY
    return set(_git(root, "log", f"--since={since.isoformat()}", "--name-only", "--format=").split("\n")) - {""}


def turn_of(root: Path = ROOT, today: datetime.date | None = None) -> int:
    """Moves on with every commit and every day; in a shallow clone, which has always as many commits, by the day."""
    commits = _git(root, "rev-list", "--count", "HEAD").strip()
    return int(commits or 0) + (today or datetime.date.today()).toordinal()


def recorded(file: Path = RECORD) -> dict[str, float]:
    """Seconds of each test that was ever measured."""
    return {test: one["seconds"] for test, one in _read(file).items()}


def record(seconds: Mapping[str, float], machine: str, file: Path = RECORD) -> None:
    """Writes down what tests took on this machine today; others keep what they have."""
    today = datetime.date.today().isoformat()
    new = {test: {"seconds": round(took, 1), "machine": machine, "date": today} for test, took in seconds.items()}
    file.write_text(json.dumps(dict(sorted((_read(file) | new).items())), indent=2) + "\n")


def table(seconds: Mapping[str, float]) -> list[str]:
    """Lines for a terminal, the longest first."""
    return [f"{took:8.1f} s  {test}" for test, took in sorted(seconds.items(), key=lambda one: -one[1])]


def in_minutes(seconds: Sequence[float]) -> str:
    """Their sum, as a person says it."""
    return f"{sum(seconds) / 60:.0f} min"


def _read(file: Path) -> dict[str, dict[str, object]]:
    return json.loads(file.read_text()) if file.exists() else {}


def _git(root: Path, *words: str) -> str:
    """What git prints; nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", root, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
