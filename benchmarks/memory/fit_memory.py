"""Fits the memory model and the step times to a card's measured cells, and prints what is left over.

    python benchmarks/memory/fit_memory.py

Memory: of each cell's peak everything that is counted (weights, adapters, what optimizers keep, text encoders) is taken
off; the rest is a row's activations with and without gradient checkpointing, proportional to rows and pixels, and a
constant. Time: launches with and without checkpointing, and a part for each job; all cells are such that the card waits
for Python. Both by least squares of relative errors. Wants no card and no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import numpy as np

from lorafleet_jobs.intake import memory_model, step_time
from memory_cells import Cell, measured_cells


def fit_memory(cells: Sequence[Cell]) -> tuple[float, float, float]:
    """MiB of a row, of a row with checkpointing, and the constant."""
    features = np.array([[cell.rows * (not cell.checkpointing), cell.rows * cell.checkpointing, 1] for cell in cells])
    present = memory_model.ROW_MIB, memory_model.CHECKPOINTED_ROW_MIB, memory_model.WORKSPACE_MIB
    counted = np.array([cell.predicted_mib() for cell in cells]) - features @ np.array(present)
    return _relative(features, np.array([cell.peak_mib for cell in cells]), counted)


def fit_seconds(cells: Sequence[Cell]) -> tuple[float, float, float]:
    """Seconds of a step's launches, of them with checkpointing, and of each job."""
    features = np.array([[not cell.checkpointing, cell.checkpointing, cell.pack] for cell in cells], float)
    return _relative(features, np.array([cell.seconds for cell in cells]), np.zeros(len(cells)))


def _relative(features: Any, measured: Any, known: Any) -> tuple[float, float, float]:
    """Least squares of (known + features c - measured) / measured."""
    solution, *_ = np.linalg.lstsq(features / measured[:, None], (measured - known) / measured, rcond=None)
    return float(solution[0]), float(solution[1]), float(solution[2])


def main() -> None:
    cells = measured_cells()
    row, checkpointed, constant = fit_memory(cells)
    print(f"memory: a row {row:.0f} MiB, with checkpointing {checkpointed:.0f}, constant {constant:.0f}")
    print(f"  the model has {memory_model.ROW_MIB:.0f}, {memory_model.CHECKPOINTED_ROW_MIB:.0f}, "
          f"{memory_model.WORKSPACE_MIB:.0f}")  # fmt: skip
    launch, twice, job = fit_seconds(cells)
    print(f"time: launches {launch:.3f} s, with checkpointing {twice:.3f}, a job {job:.4f}")
    print(f"  the model has {step_time.LAUNCH_S[False]}, {step_time.LAUNCH_S[True]}, {step_time.JOB_S}")
    print(f"\n{'cell':46s}  GiB measured  model           ms measured  model")
    for cell in cells:
        mib, seconds = cell.predicted_mib(), cell.predicted_seconds()
        print(
            f"{cell.name:46s} {cell.peak_mib / 1024:13.1f} {mib / 1024:6.1f} {mib / cell.peak_mib - 1:+7.1%}"
            f" {cell.seconds * 1000:13.0f} {seconds * 1000:6.0f} {seconds / cell.seconds - 1:+7.1%}"
        )


if __name__ == "__main__":
    main()
