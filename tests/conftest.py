"""Tests stay on this machine, in their own folders, and leave cores to each other."""

import os

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
