"""What a child run says about its job: the resolved recipe, flat, and the data set's fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from lorafleet.config import Recipe


@dataclass(frozen=True)
class JobInfo:
    """What a child run says about its job."""

    name: str
    """Of the run."""
    job_id: str
    subject: str
    adapter: str
    base: str
    steps: int
    recipe: Recipe
    folder: str
    images: int
    dataset_fingerprint: str

    @property
    def params(self) -> dict[str, str]:
        """The resolved recipe, flat, and what else shapes the result."""
        flat = _flat(self.recipe.model_dump(mode="json"))
        return {**flat, "base": self.base, "subject": self.subject, "steps": str(self.steps)}

    @property
    def dataset(self) -> DatasetInput:
        """The pictures it learns from, as MLflow's input."""
        folder = Path(self.folder)
        source = json.dumps({"uri": folder.as_uri() if folder.is_absolute() else self.folder})
        digest = self.dataset_fingerprint[:36]  # MLflow's limit
        profile = json.dumps({"images": self.images})
        data = Dataset(self.subject, digest, source_type="local", source=source, profile=profile)
        return DatasetInput(data, [InputTag("mlflow.data.context", "training")])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = "none" if value is None else str(value)
    return flat
