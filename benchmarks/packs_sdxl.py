"""Packs on the full SDXL architecture with random weights, bf16: seconds a step and peak memory, beside their floor.

For accelerators; `packs.py --base sdxl-random` comes here. The floor of a step is two UNet forwards for each row (the
forward, and the gradient of the activations; frozen weights need none), at the matmul rate that the same run measures.
With checkpointing the forward is taken twice, which the floor does not count.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tools"))
import packs_arms as arms
import torch
from sdxl_device import device_name, forget_peak, peak_gib, timed

from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.pack import train_step
from lorafleet_jobs.train.training import Training
from sdxl_random import sdxl_random

FORWARD_TFLOP = {512: 1.589, 1024: 6.761}
"""Of SDXL's UNet for one row, a multiplication and an addition counted as two."""
PACKS, RANKS, PICTURES = (1, 2, 4, 8), (8, 32), 2
RESULT = Path(__file__).parent / "results" / "packs-sdxl-random.json"


@dataclass(frozen=True)
class Cell:
    """One pack, measured."""

    pixels: int
    rank: int
    checkpointing: bool
    pack: int
    seconds: float | None
    """Of a step of all jobs, median; None if even one job does not fit."""
    peak_gib: float | None
    calls: float
    """Of the UNet in a step; more than one where the pack did not fit in memory together."""
    floor_seconds: float | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is only for this base; small values try the code where no accelerator is."""
    whole = {"type": lambda text: tuple(map(int, text.split(",")))}
    parser.add_argument("--pixels", default=(512, 1024), help=argparse.SUPPRESS, **whole)
    parser.add_argument("--packs", default=PACKS, help=argparse.SUPPRESS, **whole)
    parser.add_argument("--ranks", default=RANKS, help=argparse.SUPPRESS, **whole)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def matmul_tflops(device: str) -> float:
    """The best of ten bf16 products of square matrices, in TFLOP/s."""
    n = 8192 if device == "cuda" else 1024
    A, B = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = [timed(lambda: A @ B, device)[0] for _ in range(12)][2:]
    return 2 * n**3 / min(times) / 1e12


def cells(warm: LoadedBase, folder: Path, arguments: argparse.Namespace, rate: float) -> list[Cell]:
    """Every pack; prints each line as it is known."""
    found = []
    for pixels in arguments.pixels:
        for rank in arguments.ranks:
            for checkpointing in (False, True):
                specs = arms.jobs(
                    folder, "sdxl-random", max(arguments.packs), PICTURES, rank=rank, resolution=pixels,
                    gradient_checkpointing=checkpointing, precision="bf16", batch_size=1, steps=10_000,
                )  # fmt: skip
                trainings = [Training.prepare(spec, warm) for spec in specs]
                for pack in arguments.packs:
                    cell = measured(warm, trainings[:pack], arguments, rate)
                    print(line(cell), flush=True)
                    found.append(cell)
    return found


def measured(warm: LoadedBase, trainings: list[Training], arguments: argparse.Namespace, rate: float) -> Cell:
    """One pack: a step to warm up, then `--steps` of them."""
    recipe, device = trainings[0].spec.recipe, arguments.device
    pixels, pack = int(recipe.resolution or 0), len(trainings)
    calls: list[None] = []
    counting = warm.unet.register_forward_pre_hook(lambda *_: calls.append(None))
    forget_peak(device)

    def step() -> None:
        for outcome in train_step([(training, 1) for training in trainings]):
            if isinstance(outcome, Exception):
                raise outcome

    seconds: float | None = None
    try:
        step()
        calls.clear()
        seconds = statistics.median(timed(step, device)[0] for _ in range(arguments.steps))
    except torch.OutOfMemoryError:
        pass  # said in the table by a missing figure
    finally:
        counting.remove()
    return Cell(
        pixels, recipe.rank, recipe.gradient_checkpointing, pack, seconds, peak_gib(device) if seconds else None,
        len(calls) / arguments.steps,
        2 * pack * FORWARD_TFLOP[pixels] / rate if pixels in FORWARD_TFLOP else None,
    )  # fmt: skip


def line(cell: Cell) -> str:
    """Of the table."""
    kept = "on" if cell.checkpointing else "off"
    start = f"{cell.pixels:6d} {cell.rank:5d} {kept:>13s} {cell.pack:5d}"
    if cell.seconds is None:
        return f"{start}   does not fit in memory"
    said = f"{start} {cell.seconds:8.3f} {cell.seconds / cell.pack:11.3f} {cell.peak_gib:9.1f} {cell.calls:6.1f}"
    if cell.floor_seconds is None:
        return said
    return f"{said} {cell.floor_seconds:9.3f} {cell.seconds / cell.floor_seconds:9.1f}x"


def run(arguments: argparse.Namespace) -> None:
    """Measures and reports."""
    device, arguments.steps = arguments.device, arguments.steps or 4
    name = device_name(device)
    rate = matmul_tflops(device)
    with tempfile.TemporaryDirectory() as folder:
        warm = sdxl_random(Path(folder) / "base", torch.bfloat16, device)
        base_gib = torch.cuda.memory_allocated() / 2**30 if device == "cuda" else peak_gib(device)
        print(f"{name}: bf16 matmul {rate:.1f} TFLOP/s; UNet, text encoders and fp32 VAE take {base_gib:.1f} GiB")
        print("pixels  rank checkpointing  pack   s/step  s/step/job  peak GiB  calls   floor s   of floor")
        found = cells(warm, Path(folder), arguments, rate)
    data = {
        "date": datetime.date.today().isoformat(), "machine": name, "torch": torch.__version__, "precision": "bf16",
        "batch": 1, "matmul_tflops": rate, "base_gib": base_gib, "steps": arguments.steps,
        "cells": [asdict(cell) for cell in found],
    }  # fmt: skip
    (arguments.out or RESULT).write_text(json.dumps(data, indent=2) + "\n")
