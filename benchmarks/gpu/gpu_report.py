"""What the GPU bench measures, as rows of one table, and the clock that it runs by. Knows no model."""

from __future__ import annotations

import datetime
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lorafleet.errors import LorafleetError, first_line
from lorafleet.util.machine import describe_machine


@dataclass(frozen=True)
class Check:
    """Something that must be right before its speed means anything."""

    what: str
    found: float
    bar: float
    """The most that is allowed."""
    unit: str = ""

    @property
    def line(self) -> str:
        passed = "right" if self.found <= self.bar else "WRONG"
        return f"{passed}  {self.what}: {self.found:.2g} {self.unit}(at most {self.bar:.2g})"


@dataclass(frozen=True)
class Cell:
    """One step of something, measured."""

    what: str
    pixels: int
    rows: int
    """Of the call: jobs times batch size, or images."""
    ms: float
    """Of a step of all rows."""
    first_s: float
    """Of the first step, with its recording or compiling."""
    floor_ms: float | None
    """What the UNet's matrix products take at the rate that this device was measured at."""
    peak_gib: float
    syncs: float | None = None
    """Times a step waits for the device."""

    @property
    def line(self) -> str:
        floor = "" if self.floor_ms is None else f"{self.floor_ms:8.1f} {self.ms / self.floor_ms:6.1f}x"
        syncs = "" if self.syncs is None else f"  {self.syncs:.1f} waits"
        return (
            f"{self.what:34s} {self.pixels:5d} {self.rows:4d} {self.ms:8.1f} {self.ms / self.rows:8.1f} {floor:16s}"
            f" {self.peak_gib:6.1f} {self.first_s:7.1f}{syncs}"
        )


@dataclass(frozen=True)
class Figure:
    """Anything else."""

    what: str
    value: float
    unit: str

    @property
    def line(self) -> str:
        return f"{self.what}: {self.value:.3g} {self.unit}"


Found = Check | Cell | Figure
HEADING = (
    f"{'':34s} {'px':>5s} {'rows':>4s} {'ms':>8s} {'ms/row':>8s} {'floor':>8s} {'':7s} {'GiB':>6s} {'first s':>7s}"
)


@dataclass(frozen=True)
class Task:
    """A part of the bench that can be left out."""

    name: str
    seconds: float
    """What it is expected to take on a large GPU."""
    run: Callable[[], list[Found]]


class Report:
    """Runs tasks while there is time, prints each result, and writes all of them after each task."""

    def __init__(self, minutes: float, out: Path, device: str) -> None:
        self._ends, self._out = time.monotonic() + 60 * minutes, out
        self.device = device
        self.found: list[Found] = []
        self.failed: dict[str, str] = {}
        self.left_out: list[str] = []

    def run(self, task: Task) -> None:
        """A task that fails says why and does not end the others."""
        if time.monotonic() + task.seconds > self._ends:
            self.left_out.append(task.name)
            return
        started = time.monotonic()
        try:
            found = task.run()
        except (LorafleetError, RuntimeError, ImportError) as problem:
            traceback.print_exc(limit=-8)
            self.failed[task.name] = first_line(problem)
            print(f"FAILED {task.name}: {first_line(problem)}", flush=True)
            found = []
        for each in found:
            print(each.line, flush=True)
        self.found += found
        print(f"    ({task.name}: {time.monotonic() - started:.0f} s)", flush=True)
        self.write()

    def write(self) -> None:
        """As JSON: what is known so far, and what is not."""
        kinds = {"checks": Check, "cells": Cell, "figures": Figure}
        document = {
            "date": datetime.date.today().isoformat(), "machine": device_name(self.device),
            "torch": torch.__version__, "failed": self.failed, "left_out": self.left_out,
            **{name: [asdict(each) for each in self.found if isinstance(each, kind)] for name, kind in kinds.items()},
        }  # fmt: skip
        self._out.write_text(json.dumps(document, indent=1) + "\n")

    def table(self) -> str:
        """Everything once more."""
        lines = [device_name(self.device) + f", torch {torch.__version__}"]
        lines += [each.line for each in self.found if isinstance(each, Check)]
        lines += [HEADING, *[each.line for each in self.found if isinstance(each, Cell)]]
        lines += [each.line for each in self.found if isinstance(each, Figure)]
        lines += [f"FAILED {name}: {why}" for name, why in self.failed.items()]
        lines += [f"no time for: {', '.join(self.left_out)}"] if self.left_out else []
        return "\n".join(lines)


def device_name(device: str) -> str:
    """An accelerator's own; on a CPU the machine's."""
    return str(torch.cuda.get_device_name()) if device == "cuda" else describe_machine()
