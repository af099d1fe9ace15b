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
class Pack:
    """So many jobs of one recipe."""

    name: str
    recipe: Recipe
    pack: int

    @property
    def checkpointing(self) -> bool:
        return self.recipe.gradient_checkpointing is True

    @property
    def rows(self) -> float:
        """Of the call, each as a share of 1024 px."""
        return self.pack * rows_at_once(self.recipe) * ((self.recipe.resolution or 1024) / 1024) ** 2


@dataclass(frozen=True)
class Cell(Pack):
    """One pack, of which the peak was measured."""

    prepared: int
    """Jobs that hold their parameters, those of the pack among them."""
    peak_mib: float

    def predicted_mib(self) -> float:
        """The peak of a step, with the parameters of jobs that wait."""
        waiting = (self.prepared - self.pack) * 4 * sdxl_size().adapter_parameters(self.recipe) / MIB
        return job_memory(self.recipe, sdxl_base(), sdxl_size()).times(self.pack).step + waiting


@dataclass(frozen=True)
class Step(Pack):
    """One pack, of which a recorded step was timed."""

    seconds: float

    def predicted_seconds(self) -> float:
        return step_seconds(self.recipe, sdxl_base(), True, self.pack)


def measured_cells(path: Path = CELLS) -> list[Cell]:
    """The table of peaks, with whole recipes."""
    return [
        Cell(*_named(row, recipe), row["pack"], row["prepared"], row["peak_gib"] * 1024)
        for row, recipe in _rows(path, "cells")
    ]


def measured_steps(path: Path = CELLS) -> list[Step]:
    """The table of times, with whole recipes."""
    return [
        Step(*_named(row, recipe), row["pack"], row["milliseconds"] / 1000) for row, recipe in _rows(path, "recorded")
    ]


def _rows(path: Path, name: str) -> list[tuple[dict[str, Any], Recipe]]:
    table = json.loads(path.read_text())
    common = {**table["recipe"], "precision": table["precision"]}
    return [(row, _recipe(row, common)) for row in table[name]]


def _recipe(row: dict[str, Any], common: dict[str, Any]) -> Recipe:
    own = {"resolution": row["pixels"], "gradient_checkpointing": row["checkpointing"], **row.get("recipe", {})}
    return Recipe.model_validate(common | own)


def _named(row: dict[str, Any], recipe: Recipe) -> tuple[str, Recipe]:
    kept = "checkpointing" if row["checkpointing"] else "plain"
    learned = "" if recipe.pivotal is None else ", tokens"
    return f"{row['pixels']} px, {kept}{learned}, rank {recipe.rank}, {row['pack']} x {recipe.batch_size} rows", recipe
