"""Does the fan-out survive? Jobs train while lanes, dispatchers, drivers and whole nodes are killed, again and again.

    ./dev test --chaos [--kills N] [--postgres]      or: python benchmarks/chaos/chaos.py --kills N [--database URL]

Three phases, as in Ray's own chaos tests: one submission to warm up; one that nobody disturbs, whose weights are the
reference; then the same manifest with the killer on, first on a Ray of the driver's own, then on three nodes. Whoever
killed the driver submits again, as a user would. Afterwards every job must have succeeded exactly once, with the same
bits, the same curves, and nothing left over (`chaos_checks`). Writes `benchmarks/results/chaos.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos_checks import Watcher, check
from chaos_killer import Killer, share_done
from chaos_nodes import Nodes
from chaos_place import BASE, Place, write_work

from lorafleet.util.machine import describe_machine

RESULT = Path(__file__).parents[1] / "results" / "chaos.json"
NODE_SHARE = 0.15  # of all kills, on three nodes
SECONDS_A_KILL, SECONDS_AROUND = 30.0, 900.0


class ChaosError(Exception):
    """The run itself went wrong."""


@dataclass
class Phase:
    """What happened in one of them."""

    name: str
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    drivers: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    bundles_read: int = 0
    complaints: list[str] = field(default_factory=list)


def run_phase(name: str, place: Place, killer: Killer, limit: float) -> Phase:
    """Submits until everything has ended, and kills on the way. Raises ChaosError if that takes too long."""
    phase, started = Phase(name), time.monotonic()
    driver = place.start_driver()
    phase.drivers = 1
    with Watcher(place) as watcher:
        strike = time.monotonic() + killer.pause(place.jobs())
        while (code := driver.poll()) is None or (code == -9 and killer.done["driver"] >= phase.drivers):
            if time.monotonic() - started > limit:
                driver.kill()
                raise ChaosError(f"{name}: not done after {limit:.0f} s, {killer.left} kills to come; {place.root}")
            if code is not None:
                driver, phase.drivers = place.start_driver(), phase.drivers + 1
            elif killer.left and time.monotonic() >= strike:
                jobs = place.jobs()
                if (kind := killer.kill(jobs, driver)) is not None:
                    driver.wait() if kind == "driver" else None
                    said = f"{killer.done.total()} of {killer.kills}: {kind}, {share_done(jobs):.0%} done"
                    say(f"{name} {time.monotonic() - started:.0f} s, kill {said}")
                strike = time.monotonic() + killer.pause(jobs)
            time.sleep(0.1)
    phase.seconds = time.monotonic() - started
    phase.kills, phase.bundles_read, phase.complaints = dict(killer.done), watcher.reads, watcher.complaints
    phase.attempts = {job.spec.adapter: job.attempts for job in place.jobs()}
    if code != 0:
        phase.complaints.append(f"the driver ended with {code}; see {place.root / 'driver.log'}")
    if killer.left:
        phase.complaints.append(f"all was done with {killer.left} kills to come; more --steps")
    say(f"{name}: {phase.seconds:.0f} s, {phase.drivers} drivers, kills {phase.kills}")
    return phase


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def calm(place: Place) -> Killer:
    """Kills nobody."""
    return Killer(place, 0, random.Random(0))


def run(root: Path, arguments: argparse.Namespace) -> list[Phase]:
    """All phases; each knows what is wrong with it."""
    rng = random.Random(arguments.seed)
    (root / "work").mkdir()
    (root / "little").mkdir()
    work = write_work(root / "work", arguments.jobs, arguments.steps)
    limit = SECONDS_AROUND + SECONDS_A_KILL * arguments.kills
    warm = Place(root / "w", write_work(root / "little", 1, 4))
    phases = [run_phase("warm-up", warm, calm(warm), limit)]
    reference = Place(root / "c", work)
    phases.append(run_phase("clean", reference, calm(reference), limit))
    on_nodes = round(arguments.kills * NODE_SHARE)
    one = Place(root / "1", work, arguments.database)
    phases.append(run_phase("one machine", one, Killer(one, arguments.kills - on_nodes, rng), limit))
    phases[-1].complaints += check(one, reference)
    say(f"one machine: {phases[-1].complaints or 'as it should be'}")
    if not on_nodes:
        return phases
    three = Place(root / "3", work)
    nodes = Nodes(three)
    try:
        phases.append(run_phase("three nodes", three, Killer(three, on_nodes, rng, nodes), limit))
    finally:
        nodes.shutdown()
    phases[-1].complaints += check(three, reference)
    say(f"three nodes: {phases[-1].complaints or 'as it should be'}")
    return phases


def report(phases: list[Phase], arguments: argparse.Namespace) -> dict[str, object]:
    """The document."""
    kills: Counter[str] = Counter()
    for phase in phases:
        kills.update(phase.kills)
    return {
        "date": datetime.date.today().isoformat(), "machine": describe_machine(), "base": BASE,
        "jobs": arguments.jobs, "steps": arguments.steps, "seed": arguments.seed,
        "database": "postgresql" if arguments.database else "sqlite", "kills": kills.total(), 
 "kills_by_kind": dict(kills),
        "complaints": sum(len(phase.complaints) for phase in phases), "phases": [asdict(phase) for phase in phases],
    }  # fmt: skip


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", help="URL of an empty database; by default SQLite under the home")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="lfc", dir="/tmp"))  # short, for sockets' names
    phases = run(root, arguments)
    said = report(phases, arguments)
    arguments.out.write_text(json.dumps(said, indent=1) + "\n")
    bad = [f"{phase.name}: {line}" for phase in phases for line in phase.complaints]
    for line in bad:
        say(line)
    if bad:
        say(f"everything is left in {root}")
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
