"""What a child run says about its job: the parameters a reviewer compares, the whole recipe, and the data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag


@dataclass(frozen=True)
class JobInfo:
    """What a child run says about its job."""

    name: str
    """Of the run."""
    job_id: str
    subject: str
    adapter: str
    params: Mapping[str, str]
    """Few: MLflow prints them above each picture of the run."""
    recipe_yaml: str
    """The whole recipe."""
    folder: str
    images: int
    dataset_fingerprint: str

    @property
    def dataset(self) -> DatasetInput:
        """The pictures it learns from, as MLflow's input."""
        folder = Path(self.folder)
        source = json.dumps({"uri": folder.as_uri() if folder.is_absolute() else self.folder})
        digest = self.dataset_fingerprint[:36]  # MLflow's limit
        profile = json.dumps({"images": self.images})
        data = Dataset(self.subject, digest, source_type="local", source=source, profile=profile)
        return DatasetInput(data, [InputTag("mlflow.data.context", "training")])
