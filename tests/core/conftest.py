"""MLflow as it really is: one SQLite store for each module that asks. Plain functions are in `tracked_jobs`."""

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
