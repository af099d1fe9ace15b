"""What a driver does once all has ended: the report, a copy of it in MLflow, and the webhook.

Adapters are published by then, so nothing here may fail: what goes wrong is noted, and the rest goes on.
"""

from __future__ import annotations

import json
import math
import os
import time
from typing import TYPE_CHECKING

import yaml

from lorafleet.config import Manifest
from lorafleet.config.strict import parse
from lorafleet.console import note
from lorafleet.errors import LorafleetError, UnreachableError
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.status import Submission
from lorafleet_jobs.submission.html_report import Curve, write_report
from lorafleet_jobs.submission.webhook import notify

if TYPE_CHECKING:
    from lorafleet.tracking import MlflowTracking

ARTIFACT = "report/index.html"
LOSS = "train/loss"


def conclude(home: Home, done: Submission, tracking: MlflowTracking) -> None:
    """Reports how a submission ended to those who look at files, at MLflow, or at neither."""
    try:
        page = write_report(home, done, loss_curves(done, tracking), time.time())
        if done.row.run_id is not None:
            tracking.log_text(done.row.run_id, page.read_text("utf-8"), ARTIFACT)
    except UnreachableError as problem:
        note(f"the report is not in MLflow: {problem}")
    except OSError as problem:
        note(f"no report: {problem}")
    if (silent := tell(done)) is not None:
        note(silent)


def tell(done: Submission) -> str | None:
    """Posts the submission's JSON to the address that its manifest names, if any; returns why that did not work."""
    try:
        wanted = parse(Manifest, yaml.safe_load(done.row.manifest), f"the manifest of {done.id}").notify
    except LorafleetError as problem:  # written by another release
        return f"{problem}; nobody was notified"
    if wanted is None:
        return None
    return notify(wanted, json.dumps(done.as_json(), allow_nan=False).encode(), os.environ)


def loss_curves(done: Submission, tracking: MlflowTracking) -> dict[str, Curve]:
    """Each job's losses by step, as MLflow has them; of none from where it does not answer."""
    curves: dict[str, Curve] = {}
    try:
        for job in done.jobs:
            if job.run_id is not None:
                curves[job.id] = [point for point in tracking.history(job.run_id, LOSS) if math.isfinite(point[1])]
    except UnreachableError as problem:
        note(f"curves are missing in the report: {problem}")
    return curves
