"""An adapter as a model that MLflow loads: `mlflow.pyfunc.load_model("models:/rex@champion")`.

The file `MLmodel` beside a bundle's own files names the module that loads them, which is serving's: a name, so that
this package imports nothing of it. No pickle is written.
"""

from __future__ import annotations

from typing import Any

FILE = "MLmodel"
LOADER = "lorafleet_serve.pyfunc"
"""Has `_load_pyfunc`, which MLflow calls with the folder of the bundle."""


def model_file(run_id: str) -> str:
    """The contents of `MLmodel` in the folder `adapter` of a run: columns in, a PNG a row out."""
    from mlflow.models import Model, ModelSignature  # takes a second, and is needed once an adapter
    from mlflow.types import ColSpec, DataType, Schema

    asked: Any = Schema(
        [
            ColSpec(DataType.string, "prompt"),
            ColSpec(DataType.double, "scale", required=False),
            ColSpec(DataType.long, "seed", required=False),
        ]
    )
    made: Any = Schema([ColSpec(DataType.binary, "png"), ColSpec(DataType.long, "seed")])
    model: Any = Model(run_id=run_id, model_uuid=run_id, signature=ModelSignature(asked, made))
    model.add_flavor("python_function", loader_module=LOADER)
    text: str = model.to_yaml()
    return text
