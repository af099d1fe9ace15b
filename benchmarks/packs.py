"""What packs are worth: eight jobs by eight processes, one after another, in one pack, and by plain PEFT, side by side.

    ./dev bench packs                                on a toy base, one thread
    ./dev bench packs --compiled                     with a call for each job, and compiled (`packs_compiled.py`)

    (a) a process for each job, each importing, loading the base and training by diffusers and PEFT (`packs_reference`)
    (b) one process with the base loaded, job after job
    (c) the same process, all jobs in one pack
    (d) the same process, PEFT's mixed batch (`adapter_names`), which PEFT means for inference

Rounds are interleaved, so that a noisy machine disturbs all alike; (a) is one process a round, times the number of
jobs. Prints tables and writes `benchmarks/results/packs.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import packs_arms as arms
import packs_compiled
import torch
from packs_arms import Taken
from packs_reference import load

from lorafleet.bases import Base, find_base
from lorafleet.loaded import LoadedBase
from lorafleet.util.machine import describe_machine
from lorafleet.util.quiet import quiet_libraries
from lorafleet_jobs.intake.recipes import resolve_recipe

JOBS, RANK, BATCHES = 8, 8, (1, 4)
MEMORY_STEPS = 3
ARMS = {"a": "a process a job", "b": "one process, job by job", "c": "one pack of 8", "d": "PEFT adapter_names"}
RESULT = Path(__file__).parent / "results" / "packs.json"


def measure(base: Base, arguments: argparse.Namespace) -> dict[int, dict[str, list[Taken]]]:
    """What each round took, by batch size and arm."""
    warm, parts, threads = LoadedBase.load(base), load(base.path), arguments.threads
    found: dict[int, dict[str, list[Taken]]] = {batch: {arm: [] for arm in ARMS} for batch in BATCHES}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for round_ in range(arguments.rounds + 1):
            for batch in BATCHES:
                steps = arguments.steps if round_ else 2  # the first round warms up
                specs = arms.jobs(Path(folder), base.name, JOBS, steps=steps, rank=RANK, batch_size=batch)
                taken = {
                    "a": arms.one_process(specs[0], base, out, threads) * JOBS,
                    "b": arms.one_after_another(specs, warm, out),
                    "c": arms.pack(specs, warm, out),
                    "d": arms.plain_peft(specs, parts, base.resolution, out),
                }
                for arm in ARMS if round_ else ():
                    found[batch][arm].append(taken[arm])
                said = "  ".join(f"({arm}) {each.around:.2f} + {each.steps:.2f} s" for arm, each in taken.items())
                print(f"round {round_} of {arguments.rounds}, batch {batch}: {said}", file=sys.stderr, flush=True)
    return found


def of_arm(rounds: list[Taken], steps: int, whole: int) -> dict[str, float]:
    """Medians over rounds; `whole` is the steps of a whole job, to which the measured ones are extended."""
    seconds = statistics.median(taken.total for taken in rounds)
    around = statistics.median(taken.around for taken in rounds)
    step = statistics.median(taken.steps for taken in rounds) / steps
    extended = around + step * whole
    return {
        "seconds": seconds,
        "jobs_per_hour": JOBS * 3600 / seconds,
        "seconds_around_a_job": around / JOBS,
        "milliseconds_a_step_of_a_job": 1000 * step / JOBS,
        "extended_seconds": extended,
        "extended_jobs_per_hour": JOBS * 3600 / extended,
    }


def ratios(by_arm: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """How many times as many jobs an hour (c) does: as measured, for whole jobs, and by steps alone."""
    keys = {"measured": "seconds", "extended": "extended_seconds", "steps alone": "milliseconds_a_step_of_a_job"}
    return {
        said: {f"c/{arm}": by_arm[arm][key] / by_arm["c"][key] for arm in ARMS if arm != "c"}
        for said, key in keys.items()
    }


def memory(base: Base, arguments: argparse.Namespace) -> dict[str, float]:
    """Peak MiB at batch 1: eight processes of (a) at once, pages they share counted once, and one process of (c)."""
    with tempfile.TemporaryDirectory() as folder:
        specs = arms.jobs(Path(folder), base.name, JOBS, steps=MEMORY_STEPS, rank=RANK, batch_size=1)
        environment = arms.environment(arguments.threads)
        processes = []
        for spec in specs:
            command = arms.reference_command(spec, base, Path(folder) / spec.id, arguments.threads, "--hold")
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            processes.append(subprocess.Popen(command, env=environment, **pipes))
        try:
            for process in processes:
                if not process.stdout or not process.stdout.readline():
                    raise SystemExit(f"a process of (a) ended with {process.wait()} before it had trained")
            peaks = [peak_mib(process.pid) for process in processes]
        finally:
            for process in processes:
                process.communicate("\n")
    own = [sys.executable, __file__, "--pack-memory", "--base", base.name, "--threads", str(arguments.threads)]
    done = subprocess.run(own, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    pack = float(done.stdout.splitlines()[-1])
    return {"eight_of_a": sum(peaks), "one_of_a": max(peaks), "pack": pack, "pack/eight_of_a": pack / sum(peaks)}


def peak_mib(process: int | str) -> float:
    """A process's peak in memory on Linux, with its share of the pages that others have too, as they do now."""
    status = Path(f"/proc/{process}/status").read_text()
    now, most = (int(re.search(rf"{key}:\s+(\d+)", status)[1]) for key in ("VmRSS", "VmHWM"))  # type: ignore[index]
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    share = int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1])  # type: ignore[index]
    return (share + most - now) / 1024


def pack_memory(base: Base) -> None:
    """In a process of its own: trains a pack, and prints all that the process ever had in memory, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        specs = arms.jobs(Path(folder), base.name, JOBS, steps=MEMORY_STEPS, rank=RANK, batch_size=1)
        arms.pack(specs, LoadedBase.load(base), Path(folder))
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]


def report(data: dict[str, Any]) -> str:
    """The tables."""
    whole = data["extended_to_steps"]
    lines = [
        (
            f"{JOBS} jobs of {data['steps']} steps on {data['base']}, rank {RANK}, {data['threads']} thread, "
            f"median of {data['rounds']}; in brackets extended to {whole} steps, a whole job of the preset"
        ),
        (
            f"{'batch':5s}  {'arm':28s} {'jobs/h':>16s} {'s around a job':>15s} {'ms a step':>10s} "
            f"{'(c) is so many times this':>27s} {'steps alone':>12s}"
        ),
    ]
    for batch, found in data["batches"].items():
        for arm, name in ARMS.items():
            m, times = found["arms"][arm], [found["ratios"][k].get(f"c/{arm}", 1.0) for k in found["ratios"]]
            lines.append(
                f"{batch:>5}  ({arm}) {name:24s} {m['jobs_per_hour']:7.0f} ({m['extended_jobs_per_hour']:6.0f}) "
                f"{m['seconds_around_a_job']:15.2f} {m['milliseconds_a_step_of_a_job']:10.1f} "
                f"{times[0]:17.2f}x ({times[1]:5.2f}x) {times[2]:11.2f}x"
            )
    if found := data["memory_mib"]:
        lines.append(
            f"peak memory, batch 1: eight of (a) at once {found['eight_of_a']:.0f} MiB, the pack {found['pack']:.0f} "
            f"MiB: {found['pack/eight_of_a']:.2f} of it"
        )
    for batch, m in (data["calls"] or {}).items():
        shared, own, compiled = (m[f"{name}_milliseconds"] for name in ("shared", "own", "compiled"))
        lines.append(
            f"a step of the pack, batch {batch}: shared {shared:.0f} ms, each job's own {own:.0f} ms "
            f"({m['shared/own']:.2f}x), compiled {compiled:.0f} ms ({m['shared/compiled']:.2f}x), after "
            f"{m['compiling_seconds']:.0f} s of compiling"
        )
    return "\n".join(lines)


def toy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one toy base."""
    base = find_base(arguments.base)
    found = measure(base, arguments)
    whole = resolve_recipe({"preset": "object"}, toy=True).step_count(6)
    batches: dict[int, dict[str, Any]] = {}
    for batch, rounds in found.items():
        by_arm = {arm: of_arm(taken, arguments.steps, whole) for arm, taken in rounds.items()}
        batches[batch] = {"arms": by_arm, "ratios": ratios(by_arm)}
    linux = Path("/proc/self/smaps_rollup").exists()
    return {
        "date": datetime.date.today().isoformat(), "machine": describe_machine(), "torch": torch.__version__,
        "base": arguments.base, "threads": arguments.threads, "rounds": arguments.rounds, "jobs": JOBS, "rank": RANK,
        "steps": arguments.steps, "extended_to_steps": whole, "batches": batches,
        "memory_mib": memory(base, arguments) if linux else None,
        "calls": {b: packs_compiled.measure(base, JOBS, RANK, b) for b in BATCHES} if arguments.compiled else None,
    }  # fmt: skip


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="toy-sdxl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30, help="of each job")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--compiled", action="store_true", help="also with calls of one job each, and compiled")
    parser.add_argument("--pack-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(arguments.threads)
    if arguments.pack_memory:
        pack_memory(find_base(arguments.base))
        return
    data = toy(arguments)
    print(report(data))
    (arguments.out or RESULT).write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
