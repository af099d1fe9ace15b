"""MLflow's settings, by environment variables that it reads when it is imported or used; what a user has set stays."""

from __future__ import annotations

import os

DEFAULTS = {
    # MLflow's own are 7 retries and 120 s: one dead server would stall a lane for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to the user's data
}


def set_defaults() -> None:
    """Sets what is not set; to be called before anything of MLflow is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
