"""MLflow is quiet and impatient whichever module of tracking is imported first, and as its user has set it."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import importlib, json, logging, os, sys
importlib.import_module(sys.argv[1])
from mlflow.telemetry.client import get_telemetry_client
from lorafleet.tracking.client import connect
connect("http://127.0.0.1:1")
print(json.dumps([
    get_telemetry_client() is None,
    logging.getLogger("mlflow").level,
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"],
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"],
]))
"""


@pytest.mark.parametrize("first", ["lorafleet.tracking", "lorafleet.tracking.jobinfo", "lorafleet.tracking.client"])
def test_settings_do_not_depend_on_what_is_imported_first(first):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST_"))}
    environment = {**inherited, "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}
    for name in ("CI", "DO_NOT_TRACK"):  # by which MLflow sends nothing either
        environment.pop(name, None)
    command = [sys.executable, "-c", PROGRAM, first]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [True, 40, "2", "7"]
