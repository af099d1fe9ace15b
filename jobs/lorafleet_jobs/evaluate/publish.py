"""Scores on their way to MLflow: each adapter's own as `eval/<score>` of its run. An outage is told, never fatal."""

from __future__ import annotations

from collections.abc import Sequence

from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.evaluate.arms import ADAPTER
from lorafleet_jobs.evaluate.find import Trained
from lorafleet_jobs.evaluate.run import Evaluation


def publish(found: Evaluation, adapters: Sequence[Trained], tracking: MlflowTracking) -> list[str]:
    """Logs every adapter's scores at its last step; returns what could not be logged, a line each."""
    problems = []
    for one in adapters:
        rows = [row for row in found.rows if row.arm == ADAPTER and row.candidate == one.label]
        values = {
            f"eval/{column.label}": value
            for row in rows
            for column in found.columns
            if (value := row.scores.get(column)) is not None
        }
        if one.run_id is None:
            problems.append(f"{one.label} has no MLflow run; its scores are only here")
            continue
        tracker = tracking.job_tracker(one.run_id)
        tracker.metrics(one.spec.steps, values)
        if not tracker.flush(now=True):
            problems.append(f"MLflow at {tracking.uri} does not answer; the scores of {one.label} are only here")
    return problems
