"""The step engine on the full SDXL architecture with random weights, bf16: every row another adapter.

For accelerators; `serve.py --base sdxl-random` comes here, and needs neither Ray nor MLflow. Steps are timed by
themselves: eager, compiled (torch.compile), and compiled into CUDA graphs. Images a second for a number of steps are
put together from the measured parts (encoding, steps, decoding, one after another); the engine as it runs, where these
overlap, is measured beside them at the fewest steps.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tools"))
import torch
from sdxl_device import device_name, forget_peak, peak_gib, timed
from serve_swap import host_of, row_of, swap, using
from serve_traffic import random_bundles

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet_serve.adapters.device_cache import DeviceAdapterCache
from lorafleet_serve.adapters.host_cache import HostAdapter
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import GenerateRequest
from lorafleet_serve.engine.rows import Row
from lorafleet_serve.engine.stepper import Stepper
from lorafleet_serve.stats import Counts
from sdxl_random import sdxl_random

PIXELS, STEPS, ROWS, RANK = (512, 768, 1024), (8, 25, 50), (1, 2, 4, 8, 16), 16
GUIDANCE = 5.0
WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda unet: unet,
    "compiled": lambda unet: torch.compile(unet, dynamic=False),
    "graphs": lambda unet: torch.compile(unet, dynamic=False, mode="reduce-overhead"),
}
RESULT = Path(__file__).parent / "results" / "serve-sdxl-random.json"


@dataclass(frozen=True)
class Cell:
    """One batch, measured."""

    way: str
    pixels: int
    rows: int
    step_seconds: float
    """Of all rows, median."""
    first_seconds: float
    """Of the first step, compiling included."""
    encode_seconds: float
    """Of one row: its prompt, its noise, its adapter to the device."""
    decode_seconds: float
    """Of one row."""
    peak_gib: float

    def images_per_second(self, steps: int) -> float:
        """One part after another."""
        return self.rows / (self.rows * (self.encode_seconds + self.decode_seconds) + steps * self.step_seconds)


@dataclass(frozen=True)
class Fleet:
    """A base and adapters for its rows."""

    model: Pipeline
    bundles: Sequence[Path]
    hosts: Sequence[HostAdapter]

    def request(self, i: int, pixels: int, steps: int) -> GenerateRequest:
        """The next row's: no prompt twice."""
        return GenerateRequest(
            f"a photo of TOK mug {time.monotonic_ns()}", i, adapters=using(self.bundles[i % len(self.bundles)]),
            steps=steps, guidance_scale=GUIDANCE, width=pixels, height=pixels,
        )  # fmt: skip

    def rows(self, count: int, pixels: int, steps: int) -> list[Row]:
        """So many rows, each with another adapter that was not on the device before."""
        device_cache = DeviceAdapterCache(self.model.loaded.device, 2**40, Counts())
        return [
            row_of(self.model, device_cache, self.bundles[i], self.hosts[i], self.request(i, pixels, steps), i)
            for i in range(count)
        ]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is only for this base; `--dry` takes a toy in its place, to try the code where no accelerator is."""
    whole = {"type": lambda text: tuple(map(int, text.split(",")))}
    parser.add_argument("--pixels", default=PIXELS, help=argparse.SUPPRESS, **whole)
    parser.add_argument("--rows", default=ROWS, help=argparse.SUPPRESS, **whole)
    parser.add_argument("--step-counts", default=STEPS, help=argparse.SUPPRESS, **whole)
    parser.add_argument("--ways", default=tuple(WAYS), type=lambda text: text.split(","), help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dry", action="store_true", help=argparse.SUPPRESS)


def cell(fleet: Fleet, way: str, pixels: int, count: int, arguments: argparse.Namespace) -> Cell:
    """A first step, then some to be timed; one row decoded."""
    device, model = arguments.device, fleet.model
    forget_peak(device)
    encode, rows = timed(lambda: fleet.rows(count, pixels, arguments.rounds + 1), device)
    stepper = Stepper(model)

    def step() -> None:
        nonlocal rows
        torch.compiler.cudagraph_mark_step_begin()
        rows = stepper.step(rows)

    try:
        first, _ = timed(step, device)
        seconds = statistics.median(timed(step, device)[0] for _ in range(arguments.rounds))
    finally:
        stepper.keep(())
    decode, _ = timed(lambda: model.loaded.decode(rows[0].x), device)
    return Cell(way, pixels, count, seconds, first, encode / count, decode, peak_gib(device))


def cells(fleet: Fleet, arguments: argparse.Namespace) -> list[Cell]:
    """Every batch; prints each line as it is known."""
    found = []
    plain: Any = fleet.model.loaded.unet
    cell(fleet, "eager", min(arguments.pixels), 1, arguments)  # warms up
    for way in arguments.ways:
        torch.compiler.reset()
        fleet.model.loaded.unet = WAYS[way](plain)
        for pixels in arguments.pixels:
            for count in arguments.rows:
                try:
                    one = cell(fleet, way, pixels, count, arguments)
                except torch.OutOfMemoryError:
                    print(f"{way:8s} {pixels:6d} {count:5d}   does not fit in memory", flush=True)
                    break  # nor will more rows
                print(line(one, arguments.step_counts), flush=True)
                found.append(one)
    fleet.model.loaded.unet = plain
    return found


def as_engine(fleet: Fleet, pixels: int, rows: int, steps: int) -> float:
    """Images a second of the engine as it runs, eager, at twice as many requests as it has rows."""
    engine = StepEngine(fleet.model, max_rows=rows, max_queue=2 * rows)
    try:
        engine.submit(fleet.request(0, pixels, 1)).result()
        started = time.perf_counter()
        futures = [engine.submit(fleet.request(i, pixels, steps)) for i in range(2 * rows)]
        for future in futures:
            future.result()
        return 2 * rows / (time.perf_counter() - started)
    finally:
        engine.close()


def heading(steps: Sequence[int]) -> str:
    """Of the table."""
    rates = "".join(f" {f'img/s at {n}':>12s}" for n in steps)
    return f"way      pixels  rows   s/step  s/step/row  encode s  decode s{rates}  peak GiB   first s"


def line(one: Cell, steps: Sequence[int]) -> str:
    """Of the table."""
    rates = "".join(f" {one.images_per_second(n):12.3f}" for n in steps)
    return (
        f"{one.way:8s} {one.pixels:6d} {one.rows:5d} {one.step_seconds:8.4f} {one.step_seconds / one.rows:11.4f} "
        f"{one.encode_seconds:9.4f} {one.decode_seconds:9.4f}{rates} {one.peak_gib:9.2f} {one.first_seconds:9.2f}"
    )


def loaded_base(folder: Path, arguments: argparse.Namespace) -> LoadedBase:
    """SDXL, or in its place a toy."""
    if arguments.dry:
        return LoadedBase.load(find_base("toy-sdxl"), arguments.device)
    return sdxl_random(folder, torch.bfloat16, arguments.device)


def run(arguments: argparse.Namespace) -> None:
    """Measures and reports."""
    device = arguments.device
    name = device_name(device)
    with tempfile.TemporaryDirectory() as folder:
        loaded = loaded_base(Path(folder) / "base", arguments)
        model, base = Pipeline(loaded), loaded.base
        shapes = loaded.lora["unet"].shapes()
        bundles = random_bundles(Path(folder), base, shapes, max(2, *arguments.rows), [RANK])
        fleet = Fleet(model, bundles, [host_of(model, bundle) for bundle in bundles])
        print(f"{name}, torch {torch.__version__}, {loaded.unet.dtype}, every row another adapter of rank {RANK}")
        swapped = swap(model, bundles[:2], 50)
        print(f"swap: slot {swapped.slot:.2f} ms, seat {swapped.seat:.2f} ms, plain copy {swapped.copy:.2f} ms")
        print(heading(arguments.step_counts))
        found = cells(fleet, arguments)
        fewest = min(arguments.step_counts)
        engine = [
            {"pixels": one.pixels, "rows": one.rows, "steps": fewest,
             "images_per_second": as_engine(fleet, one.pixels, one.rows, fewest)}
            for one in found if one.way == "eager"
        ]  # fmt: skip
    for each in engine:
        print("engine, {pixels} px, {rows} rows, {steps} steps: {images_per_second:.3f} images/s".format(**each))
    data = {
        "date": datetime.date.today().isoformat(), "machine": name, "torch": torch.__version__,
        "precision": str(loaded.unet.dtype), "rank": RANK, "guidance": GUIDANCE, "rounds": arguments.rounds,
        "swap": swapped.report(), "engine": engine,
        "cells": [
            {**asdict(one), "images_per_second": {n: one.images_per_second(n) for n in arguments.step_counts}}
            for one in found
        ],
    }  # fmt: skip
    if arguments.out or not arguments.dry:
        (arguments.out or RESULT).write_text(json.dumps(data, indent=2) + "\n")
