"""What a shared batch is worth: the same twelve mixed requests with 1, 4, 8 and 12 rows a UNet call, side by side.

Every request has an adapter of its own; rounds are interleaved, so that a noisy machine disturbs all alike. Prints a
table and writes `benchmarks/results/rows.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save

from lorafleet.bases import Base, find_base
from lorafleet.bundle.bundle import WEIGHTS, AdapterCard, Trigger, write_bundle
from lorafleet.bundle.folder_registry import version_of
from lorafleet.loaded import LoadedBase
from lorafleet.targets import PRESETS, select
from lorafleet.util.machine import describe_machine
from lorafleet.util.quiet import quiet_libraries
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest

REQUESTS, RANK, ROWS = 12, 8, (1, 4, 8, 12)
RESULT = Path(__file__).parent / "results" / "rows.json"


def random_adapter(folder: Path, index: int, loaded: LoadedBase) -> AdapterUse:
    """An adapter of rank 8 with random weights."""
    name, base = f"subject-{index}", loaded.base
    generator, tensors = torch.Generator().manual_seed(index), {}
    shapes = loaded.lora["unet"].linear
    for layer in select(shapes, "attn"):
        n_in, n_out = shapes[layer]
        tensors[f"unet.{layer}.lora.down.weight"] = torch.randn(RANK, n_in, generator=generator) / RANK
        tensors[f"unet.{layer}.lora.up.weight"] = torch.randn(n_out, RANK, generator=generator) * 0.02
    card = AdapterCard(
        name=name, base=base.name, base_fingerprint=base.fingerprint, prediction=base.prediction, rank=RANK,
        alpha=float(RANK), targets=PRESETS["attn"], class_noun="mug", images=1, steps=1,
        triggers=(Trigger(trigger=f"<{name}>", abstraction="TOK", text="TOK"),), recipe={}, dataset_fingerprint="",
        instance_prompt="a photo of TOK mug", licence=base.licence, job_id=name, lorafleet_version="0",
    )  # fmt: skip
    write_bundle(folder / name, card, {WEIGHTS: save(tensors)})
    return AdapterUse(version_of(folder / name), 1.0)


def seconds(engine: StepEngine, requests: list[GenerateRequest]) -> float:
    """Wall time from the first submission to the last picture."""
    started = time.perf_counter()
    for future in [engine.submit(request) for request in requests]:
        future.result()
    return time.perf_counter() - started


def measure(base: Base, rounds: int) -> dict[int, list[float]]:
    """Seconds of each round for each row limit."""
    loaded = LoadedBase.load(base)
    with tempfile.TemporaryDirectory() as folder:
        uses = [random_adapter(Path(folder), i, loaded) for i in range(REQUESTS)]
        requests = [GenerateRequest(f"a photo of TOK mug {i}", i, adapters=(use,)) for i, use in enumerate(uses)]
        times: dict[int, list[float]] = {rows: [] for rows in ROWS}
        for round_ in range(rounds + 1):
            for rows in ROWS:
                engine = StepEngine(Pipeline(loaded), max_rows=rows)
                taken = seconds(engine, requests)
                engine.close()
                if round_:  # the first round warms up
                    times[rows].append(taken)
    return times


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="toy-playground")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(arguments.threads)
    medians = {rows: statistics.median(t) for rows, t in measure(find_base(arguments.base), arguments.rounds).items()}
    print(f"{REQUESTS} requests, {REQUESTS} adapters, {arguments.base}, {arguments.threads} threads")
    print("rows   images/s   against one row")
    for rows, taken in medians.items():
        print(f"{rows:4d}   {REQUESTS / taken:8.2f}   {medians[1] / taken:.2f}x")
    RESULT.write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(), "machine": describe_machine(), "torch": torch.__version__,
                "base": arguments.base, "threads": arguments.threads, "rounds": arguments.rounds,
                "requests": REQUESTS, "median_seconds": medians,
            },
            indent=2,
        ) + "\n"
    )  # fmt: skip


if __name__ == "__main__":
    main()
