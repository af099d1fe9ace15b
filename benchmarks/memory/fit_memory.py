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
from memory_cells import Cell, Step, measured_cells, measured_steps


def fit_memory(cells: Sequence[Cell]) -> list[float]:
    """MiB of a row, of a row with checkpointing, and the constant."""
    features = np.array([[cell.rows * (not cell.checkpointing), cell.rows * cell.checkpointing, 1] for cell in cells])
    present = memory_model.ROW_MIB, memory_model.CHECKPOINTED_ROW_MIB, memory_model.WORKSPACE_MIB
    counted = np.array([cell.predicted_mib() for cell in cells]) - features @ np.array(present)
    return _relative(features, np.array([cell.peak_mib for cell in cells]), counted)


def fit_seconds(steps: Sequence[Step]) -> tuple[float, float]:
    """Seconds of a step of no rows, and of each row."""
    features = np.array([[1, step.rows] for step in steps], float)
    fixed, row = _relative(features, np.array([step.seconds for step in steps]), np.zeros(len(steps)))
    return fixed, row


def _relative(features: Any, measured: Any, known: Any) -> list[float]:
    """Least squares of (known + features c - measured) / measured."""
    solution, *_ = np.linalg.lstsq(features / measured[:, None], (measured - known) / measured, rcond=None)
    return [float(each) for each in solution]


def main() -> None:
    cells = measured_cells()
    row, checkpointed, constant = fit_memory(cells)
    print(f"memory: a row {row:.0f} MiB, with checkpointing {checkpointed:.0f}, constant {constant:.0f}")
    print(f"  the model has {memory_model.ROW_MIB:.0f}, {memory_model.CHECKPOINTED_ROW_MIB:.0f}, "
          f"{memory_model.WORKSPACE_MIB:.0f}")  # fmt: skip
    steps = measured_steps()
    for kept in (False, True):
        fixed, row = fit_seconds([step for step in steps if step.checkpointing is kept])
        print(f"time, checkpointing {'on' if kept else 'off'}: a step {fixed:.4f} s, a row {row:.4f}")
        print(f"  the model has {step_time.STEP_S[kept]}, {step_time.ROW_S[kept]}")
    print(f"\n{'peak':52s}  GiB measured  model")
    for cell in cells:
        mib = cell.predicted_mib()
        print(f"{cell.name:52s} {cell.peak_mib / 1024:13.1f} {mib / 1024:6.1f} {mib / cell.peak_mib - 1:+7.1%}")
    print(f"\n{'step':52s}   ms measured  model")
    for step in steps:
        seconds = step.predicted_seconds()
        print(f"{step.name:52s} {step.seconds * 1000:13.0f} {seconds * 1000:6.0f} {seconds / step.seconds - 1:+7.1%}")


if __name__ == "__main__":
    main()
