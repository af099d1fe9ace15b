"""MLflow as it really is, one SQLite store for each module that asks, and commands on a home of their own.

Plain functions are in `tracked_jobs` and `lora_files`.
"""

import sys
import uuid
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def home(tmp_path_factory, with_mlflow):
    return with_mlflow(tmp_path_factory.mktemp("tracking home"))


@pytest.fixture(scope="module")
def tracking(home):
    from lorafleet.tracking import MlflowTracking

    return MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")


@pytest.fixture
def parent(tracking):
    return tracking.start_submission("pets", uuid.uuid4().hex, {"lanes": "2"}, "name: pets\n")


@pytest.fixture
def lorafleet(tmp_path, monkeypatch, with_mlflow):
    """lorafleet("adapters", "ls") runs a command on adapters; returns its exit code."""
    from lorafleet.cli import new_app, run
    from lorafleet.commands.table import register

    monkeypatch.setenv("LORAFLEET_HOME", str(with_mlflow(tmp_path / "home")))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    app = new_app()
    register(app)
    return lambda *arguments: run(app, [str(argument) for argument in arguments])
