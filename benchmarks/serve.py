"""What the step engine is worth where every request has another adapter: the same pictures made in five ways.

    ./dev bench serve                                on a toy base, one core, one thread

    (a) stock diffusers, load_lora_weights and unload_lora_weights around each request
    (b) stock diffusers, all adapters resident, set_adapters before each request
    (c) PEFT's mixed batch (`adapter_names`), static batches
    (d) the step engine, one adapter a step
    (e) the step engine

Requests come all at once, and at a constant rate that does not wait for answers. Rounds are interleaved, so that a
noisy machine disturbs all alike. Prints tables, writes `benchmarks/results/serve.json` and draws `docs/serve.svg`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import serve_chart
import torch
from serve_arms import GUIDANCE, AllResident, Arm, Engine, LoadEach, MixedBatches
from serve_swap import host_of, swap
from serve_traffic import RANKS, Asked, Seen, random_bundles, seen, summary, traffic

from lorafleet.bases import Base, find_base
from lorafleet.targets import UNET
from lorafleet.util.machine import describe_machine
from lorafleet.util.quiet import quiet_libraries
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.stats import EngineStats

ADAPTERS, IN_SLOTS, ROWS = (1, 4, 16, 64), 16, 8
ARMS = {
    "a": "diffusers load/unload", "b": "diffusers set_adapters", "c": "PEFT adapter_names",
    "d": "engine, one adapter", "e": "engine",
}  # fmt: skip
TARGETS = {"a": 4.0, "b": 1.5, "c": 1.2, "d": 1.0}
"""How many times as many images a second (e) should make with 16 adapters."""
BAR = 2 / 255
SWAPS = 300
RESULT = Path(__file__).parent / "results" / "serve.json"
Runs = dict[str, dict[str, list[Seen]]]
"""Of every round, by way of arriving and arm."""


def make_arms(base: Base, bundles: Sequence[Path], slot_bytes: int, steps: int) -> dict[str, Arm]:
    """All five; each engine with a base of its own, so that none finds a prompt encoded by another."""
    resident = AllResident(base, bundles, steps)
    return {
        "a": LoadEach(base, bundles, steps),
        "b": resident,
        "c": MixedBatches(resident, ROWS),
        "d": Engine(Pipeline.load(base), bundles, steps, ROWS, slot_bytes, alone=True),
        "e": Engine(Pipeline.load(base), bundles, steps, ROWS, slot_bytes),
    }


def largest_difference(arms: Mapping[str, Arm], adapters: int) -> float:
    """Between any two arms' pictures of the same requests; SystemExit if it is over 2/255, or no adapter shows."""
    asked = traffic(ROWS, adapters, series=0)
    made = {arm: pixels(each, asked) for arm, each in arms.items()}
    found = max(float(np.abs(made[arm] - made["a"]).max()) for arm in arms)
    if found > BAR:
        raise SystemExit(f"the arms do not make the same pictures: they differ by {255 * found:.1f}/255")
    if adapters > 1:
        one, other = pixels(arms["a"], [replace(asked[0], adapter=i) for i in range(2)])
        if np.abs(one - other).max() < 10 * BAR:
            raise SystemExit("the pictures do not show their adapters, so that nothing was compared")
    return found


def pixels(arm: Arm, asked: Sequence[Asked]) -> Any:
    """An arm's pictures, [n, h, w, 3] in 0 to 1."""
    return np.stack([np.asarray(answer.image, dtype=float) / 255 for answer in arm.serve(asked)])


def measure(arms: Mapping[str, Arm], adapters: int, arguments: argparse.Namespace) -> tuple[Runs, float]:
    """Every round's runs, and the rate of the open arrivals: a share of what (e) made in the first, warming round."""
    runs: Runs = {way: {arm: [] for arm in arms} for way in ("burst", "open")}
    count, rate = max(adapters, arguments.requests), 0.0
    for round_ in range(arguments.rounds + 1):
        for way in runs:
            series = 1 + 2 * round_ + (way == "open")
            asked = traffic(count, adapters, series, rate if way == "open" else None)
            if way == "open" and not round_:
                continue
            taken = {arm: seen(asked, each.serve) for arm, each in arms.items()}
            for arm in arms if round_ else ():
                runs[way][arm].append(taken[arm])
            said = "  ".join(f"({arm}) {one.images_per_second:.2f}" for arm, one in taken.items())
            print(f"{adapters} adapters, round {round_}, {way}: {said} images/s", file=sys.stderr, flush=True)
            rate = rate or arguments.load * taken["e"].images_per_second
    return runs, rate


def ratios(runs: Mapping[str, Sequence[Seen]]) -> dict[str, dict[str, float]]:
    """How many times as many images a second (e) makes, and how much more CPU time the others need; by round."""

    def by_round(arm: str, ratio: Callable[[Seen, Seen], float]) -> float:
        return statistics.median(ratio(ours, theirs) for ours, theirs in zip(runs["e"], runs[arm], strict=True))

    return {
        "images_per_second": {
            arm: by_round(arm, lambda ours, theirs: ours.images_per_second / theirs.images_per_second)
            for arm in TARGETS
        },
        "cpu_ms_an_image": {
            arm: by_round(arm, lambda ours, theirs: theirs.cpu_ms_an_image / ours.cpu_ms_an_image) for arm in TARGETS
        },
    }


def hits(before: EngineStats, after: EngineStats) -> dict[str, float]:
    """What (e) found where it was needed, the warming round among the others: shares of lookups, and slots' swaps."""

    def share(tier: str) -> float:
        found, missed = (getattr(after, f"{tier}_{k}") - getattr(before, f"{tier}_{k}") for k in ("hits", "misses"))
        return found / max(1, found + missed)

    swaps = after.slot_misses - before.slot_misses
    seconds = after.swap_seconds - before.swap_seconds
    return {
        "host_hit_rate": share("host"), "slot_hit_rate": share("slot"), "prompt_hit_rate": share("prompt"),
        "slot_swaps": swaps, "milliseconds_a_slot_swap": 1000 * seconds / max(1, swaps),
    }  # fmt: skip


def of_count(adapters: int, base: Base, bundles: Sequence[Path], slot_bytes: int, arguments: Any) -> dict[str, Any]:
    """Everything about so many adapters."""
    arms = make_arms(base, bundles[:adapters], slot_bytes, arguments.steps)
    engine = arms["e"]
    assert isinstance(engine, Engine)
    try:
        difference = largest_difference(arms, adapters)
        before = engine.engine.stats()
        runs, rate = measure(arms, adapters, arguments)
        return {
            "largest_difference_of_255": 255 * difference,
            "open_rate": rate,
            **{way: {arm: summary(of_arm) for arm, of_arm in by_arm.items()} for way, by_arm in runs.items()},
            "times": ratios(runs["burst"]),
            "hits": hits(before, engine.engine.stats()),
        }
    finally:
        for arm in arms.values():
            arm.close()


def toy(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one toy base."""
    base = find_base(arguments.base)
    model = Pipeline.load(base)
    shapes = model.loaded.lora[UNET].linear
    with tempfile.TemporaryDirectory() as folder:
        bundles = random_bundles(Path(folder), base, shapes, max(arguments.adapters))
        loading, nbytes = [], 0
        for i, bundle in enumerate(bundles):
            started = time.perf_counter()
            host = host_of(model, bundle)
            loading.append(1000 * (time.perf_counter() - started))
            nbytes += host.flat.nbytes if host.flat is not None and i < IN_SLOTS else 0
        pairs = {
            rank: random_bundles(Path(folder) / f"rank-{rank}", base, model.loaded.lora[UNET].linear, 2, [rank])
            for rank in RANKS
        }
        swaps = [swap(model, pair, SWAPS) for pair in pairs.values()]
        counts = {n: of_count(n, base, bundles, nbytes, arguments) for n in arguments.adapters}
    return {
        "date": datetime.date.today().isoformat(), "machine": describe_machine(), "torch": torch.__version__,
        "load_average": os.getloadavg(), "base": arguments.base, "cores": arguments.cores, "rounds": arguments.rounds,
        "requests": arguments.requests, "steps": arguments.steps, "guidance": GUIDANCE, "rows": ROWS, "ranks": RANKS,
        "slots_hold": IN_SLOTS, "open_load": arguments.load, "targets_at_16": TARGETS, "counts": counts,
        "swaps": [one.report() for one in swaps],
        "milliseconds_from_disk_to_host": statistics.median(loading),
    }  # fmt: skip


def report(data: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        (
            f"{data['base']}, {data['steps']} steps, {data['cores']} core, one thread, median of {data['rounds']}; "
            f"load average {data['load_average'][0]:.1f}"
        ),
        (
            f"{'adapters':>8s}  {'arm':24s} {'burst: img/s':>12s} {'p50 s':>7s} {'p95 s':>7s} {'CPU ms':>7s} "
            f"{'(e) is times':>12s} {'by CPU':>7s} {'open: img/s':>12s} {'p50 s':>7s} {'p95 s':>7s}"
        ),
    ]
    for adapters, found in data["counts"].items():
        for arm, name in ARMS.items():
            burst, arriving = found["burst"][arm], found["open"][arm]
            wall, cpu = (found["times"][key].get(arm, 1.0) for key in ("images_per_second", "cpu_ms_an_image"))
            lines.append(
                f"{adapters:>8}  ({arm}) {name:20s} {burst['images_per_second']:12.2f} {burst['p50_seconds']:7.2f} "
                f"{burst['p95_seconds']:7.2f} {burst['cpu_ms_an_image']:7.0f} {wall:11.2f}x {cpu:6.2f}x "
                f"{arriving['images_per_second']:12.2f} {arriving['p50_seconds']:7.2f} {arriving['p95_seconds']:7.2f}"
            )
        held = found["hits"]
        swaps = f"{held['slot_swaps']} swaps of {held['milliseconds_a_slot_swap']:.2f} ms"
        lines.append(
            f"          arrivals {found['open_rate']:.2f}/s; found in host memory {held['host_hit_rate']:.0%}, in "
            f"slots {held['slot_hit_rate']:.0%} ({swaps}); "
            f"pictures differ by {found['largest_difference_of_255']:.0f}/255"
        )
    lines += [
        f"swap at rank {one['rank']}, {one['nbytes'] / 2**10:.0f} KiB: to its slot {one['slot']:.3f} ms, to its seat "
        f"{one['seat']:.3f} ms; a plain copy {one['copy']:.3f} ms: {one['slot_times_copy']:.2f}x, "
        f"{one['seat_times_copy']:.2f}x"
        for one in data["swaps"]
    ]
    lines.append(f"from disk to host memory: {data['milliseconds_from_disk_to_host']:.1f} ms")
    return "\n".join(lines)


def main() -> None:
    """Measures and reports."""
    whole = {"type": lambda text: tuple(map(int, text.split(",")))}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="toy-sdxl")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=32, help="of a round, at least as many as there are adapters")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--load", type=float, default=0.7, help="rate of the open arrivals, in what (e) can do")
    parser.add_argument("--cores", type=int, default=1, help="on which the process may run, where the system can say")
    parser.add_argument("--adapters", default=ADAPTERS, help=argparse.SUPPRESS, **whole)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    quiet_libraries()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.cores :])
    torch.set_num_threads(1)
    data = toy(arguments)
    print(report(data))
    (arguments.out or RESULT).write_text(json.dumps(data, indent=2) + "\n")
    if arguments.out is None:
        serve_chart.draw(data)


if __name__ == "__main__":
    main()
