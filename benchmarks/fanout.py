"""What the fan-out costs: how much of the time from the first lease to the last end the lanes' devices are busy.

    ./dev bench fanout [--jobs 8] [--steps 190] [--lanes 2] [--pack 1]

Jobs of some twenty seconds on the toy base, one thread a lane, through `lorafleet submit`. A device is busy while it
trains, and while it samples preview pictures; it waits for everything else. The shares are of the run's
own records: the job rows say when the first job was leased and the last one ended, the lanes' spans what they did in
between. Prints a table and writes `benchmarks/results/fanout.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from lorafleet.home import Home
from lorafleet.toy.subjects import write_subjects
from lorafleet.toy.world import CLASSES
from lorafleet.util.machine import describe_machine
from lorafleet_jobs.jobqueue.status import Submission, load_submission
from lorafleet_jobs.lane.timeline import read_spans

RESULT = Path(__file__).parent / "results" / "fanout.json"
TARGET = 0.85
BUSY = ("train", "preview")
KINDS = ("train", "load", "start", "preview", "checkpoint", "bundle", "publish", "wait")


@dataclass(frozen=True)
class LaneTime:
    """What one lane did from the submission's first lease to its last end."""

    lane: str
    seconds: float
    shares: dict[str, float]
    """Of that time, by kind; `gone` is what no span covers: this lane had nothing left to do."""
    busy: float
    """The share in which its device was."""


def lane_times(done: Submission, home: Home) -> list[LaneTime]:
    """Every lane's, in order."""
    first = min(job.started for job in done.jobs if job.started is not None)
    last = max(job.updated for job in done.jobs)
    times = []
    for path in sorted((home.submissions / done.id / "spans").glob("*.jsonl")):
        spent: Counter[str] = Counter()
        for span in read_spans(path):
            spent[span.kind] += max(0.0, min(span.end, last) - max(span.start, first))
        shares = {kind: round(spent[kind] / (last - first), 4) for kind in KINDS}
        shares["gone"] = round(1 - sum(shares.values()), 4)
        busy = round(sum(shares[kind] for kind in BUSY), 4)
        times.append(LaneTime(path.stem.rpartition("-")[2], round(last - first, 1), shares, busy))
    return times


def run(folder: Path, arguments: argparse.Namespace) -> tuple[Submission, Home]:
    """Submits, and waits for the end."""
    nouns = [CLASSES[i % len(CLASSES)] for i in range(arguments.jobs)]
    subjects = write_subjects(folder / "photos", nouns)
    manifest = {
        "apiVersion": "lorafleet/v1alpha1", "name": "fanout", "base": arguments.base,
        "recipe": {"preset": "object", "steps": arguments.steps},
        "resources": {"lanes": arguments.lanes, "pack": arguments.pack},
        "subjects": [{"name": s.name, "images": f"photos/{s.name}", "class": s.identity.noun} for s in subjects],
    }  # fmt: skip
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    home = Home(folder / "home")
    environment = {
        **os.environ, "LORAFLEET_HOME": str(home.root), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local",
        "RAY_worker_niceness": "0",  # else whoever else is busy here decides
    }  # fmt: skip
    for name in ("MLFLOW_TRACKING_URI", "LORAFLEET_DATABASE_URL"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "lorafleet", "submit", str(folder / "manifest.yaml"), "--yes"]
    subprocess.run(command, env=environment, check=True)
    return load_submission(home, None), home


def main() -> int:
    """Runs, prints, writes; 1 if a lane's device was busy less than it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="toy-sdxl")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=190)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--pack", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fanout-") as folder:
        done, home = run(Path(folder), arguments)
        times = lane_times(done, home)
    each = sum(time.shares["train"] * time.seconds for time in times) / len(done.jobs)
    loads = [round(load, 1) for load in (before, os.getloadavg()[0])]
    for time in times:
        shares = ", ".join(f"{kind} {share:.1%}" for kind, share in time.shares.items() if share > 0)
        print(f"lane {time.lane}: {time.seconds:.0f} s, busy {time.busy:.1%}: {shares}")
    print(f"{len(done.jobs)} jobs of {each:.1f} s; the machine's load before and after: {loads}")
    result = {
        "what": "share of the time from the first lease to the last end, by what a lane did",
        "date": datetime.date.today().isoformat(), "machine": describe_machine(), "load_before_and_after": loads,
        "base": arguments.base, "jobs": arguments.jobs, "steps": arguments.steps, "pack": arguments.pack,
        "seconds_of_training_a_job": round(each, 2), "lanes": [asdict(time) for time in times],
    }  # fmt: skip
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if min(time.busy for time in times) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
