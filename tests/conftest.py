"""Tests stay on this machine, in their own folders, and leave cores to each other."""

import os
import shutil
from pathlib import Path

import pytest

for key, value in {
    "OMP_NUM_THREADS": "1",
    "RAY_ADDRESS": "local",  # never a cluster that happens to run here
    "RAY_AUTH_MODE": "disabled",  # else Ray writes a token to ~/.ray
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ[key] = value
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("LORAFLEET_HOME", None)


@pytest.fixture(scope="session")
def blank_mlflow(tmp_path_factory) -> Path:
    """An MLflow database with its tables and nothing in them; making one takes seconds, copying it nothing."""
    from lorafleet.tracking.client import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def with_mlflow(blank_mlflow):
    """Puts a blank MLflow database into a folder and returns the folder."""

    def put(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(blank_mlflow, folder / "mlflow.db")
        return folder

    return put


@pytest.fixture(scope="session")
def parses():
    """Lets the program that a command line names parse it, without running it."""

    def parse(words: list[str]) -> None:
        program, command, *rest = words
        if program == "lorafleet":
            import typer.main

            from lorafleet.cli import build_app

            group = typer.main.get_command(build_app())
        elif program == "ray":
            from ray.scripts.scripts import cli as group
        elif program == "mlflow":
            from mlflow.cli import cli as group
        else:
            raise AssertionError(f"no program {program} in the image")
        group.commands[command].make_context(command, list(rest))

    return parse
