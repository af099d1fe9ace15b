"""The cells of `benchmarks/results/memory_cells.json`: packs of the full SDXL architecture as a card measured them.

For the fit and for the tests that hold the models to them. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafleet.config import Recipe
from lorafleet_jobs.intake.memory_model import MIB, job_memory, rows_at_once
from lorafleet_jobs.intake.step_time import step_seconds
from sdxl_size import sdxl_base, sdxl_size

CELLS = Path(__file__).parents[1] / "benchmarks" / "results" / "memory_cells.json"


@dataclass(frozen=True)
class Cell:
    """One pack, measured."""

    name: str
    recipe: Recipe
    pack: int
    prepared: int
    """Jobs that hold their parameters, those of the pack among them."""
    peak_mib: float
    seconds: float

    @property
    def checkpointing(self) -> bool:
        return self.recipe.gradient_checkpointing is True

    @property
    def rows(self) -> float:
        """Of the call, each as a share of 1024 px."""
        return self.pack * rows_at_once(self.recipe) * ((self.recipe.resolution or 1024) / 1024) ** 2

    def predicted_mib(self) -> float:
        """The peak of a step, with the parameters of jobs that wait."""
        waiting = (self.prepared - self.pack) * 4 * sdxl_size().adapter_parameters(self.recipe) / MIB
        return job_memory(self.recipe, sdxl_base(), sdxl_size()).times(self.pack).step + waiting

    def predicted_seconds(self) -> float:
        return step_seconds(self.recipe, sdxl_base(), True, self.pack)


def measured_cells(path: Path = CELLS) -> list[Cell]:
    """The table, with whole recipes."""
    table = json.loads(path.read_text())
    return [_cell(row, {**table["recipe"], "precision": table["precision"]}) for row in table["cells"]]


def _cell(row: dict[str, Any], common: dict[str, Any]) -> Cell:
    own = {"resolution": row["pixels"], "gradient_checkpointing": row["checkpointing"], **row.get("recipe", {})}
    kept = "checkpointing" if row["checkpointing"] else "plain"
    recipe = Recipe.model_validate(common | own)
    name = f"{row['pixels']} px, {kept}, rank {recipe.rank}, {row['pack']} x {recipe.batch_size} rows"
    return Cell(name, recipe, row["pack"], row["prepared"], row["peak_gib"] * 1024, row["milliseconds"] / 1000)
