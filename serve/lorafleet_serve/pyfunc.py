"""An adapter as MLflow loads one: `mlflow.pyfunc.load_model("models:/rex@champion").predict({"prompt": ...})`.

MLflow finds this module by the name in the `MLmodel` beside a bundle. The pictures are those of `lorafleet generate`:
the same engine makes them, in this process. Knows no registry: the folder is all that it is given.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lorafleet.bundle.folder_registry import version_of
from lorafleet_serve.api.png import png_bytes
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest
from lorafleet_serve.local import open_engine

SCALE, SEED = 1.0, 0
"""Where a row names none: every call of one prompt gives the same picture."""


class AdapterModel:
    """One adapter on its base, in this process, until nobody has the model any more."""

    def __init__(self, folder: Path) -> None:
        """Loads the base that the bundle in `folder` was made for. Raises BundleError, BaseModelError."""
        self._adapter = version_of(folder)
        self._engine = open_engine(self._adapter.base)
        weakref.finalize(self, self._engine.close, drain=False)

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """A PNG for each row of `prompt`, `scale` (of the adapter; 1) and `seed` (0), and the seed that made it.

        The PNG says how it was made. Raises RequestError for a value out of bounds.
        """
        asked = [self._request(row) for row in model_input.to_dict("records")]
        pictures = [png_bytes(self._engine.submit(request).result()) for request in asked]
        return pd.DataFrame({"png": pictures, "seed": [request.seed for request in asked]})

    def _request(self, row: Mapping[Any, Any]) -> GenerateRequest:
        said = {key: value for key, value in row.items() if not pd.isna(value)}
        use = AdapterUse(self._adapter, float(said.get("scale", SCALE)))
        return GenerateRequest(str(said["prompt"]), int(said.get("seed", SEED)), adapters=(use,))


def _load_pyfunc(path: str) -> AdapterModel:
    """What MLflow calls, with the folder of the model's files."""
    return AdapterModel(Path(path))
