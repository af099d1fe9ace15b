"""Scores on their way to MLflow: each adapter's own as `eval/<score>` of its run, the first one also on its version.

An outage is told, never fatal.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorafleet.bundle.ports import Score
from lorafleet.errors import NotFoundError, UnreachableError
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.evaluate.arms import ADAPTER
from lorafleet_jobs.evaluate.find import Trained
from lorafleet_jobs.evaluate.run import Evaluation


def publish(evaluation: Evaluation, adapters: Sequence[Trained], tracking: MlflowTracking) -> list[str]:
    """Logs every adapter's scores at its last step; returns what could not be logged, a line each.

    After the first outage no other adapter is tried: each would wait for the same silence.
    """
    problems = [
        f"{adapter.label} has no MLflow run; its scores are only here" for adapter in adapters if adapter.run_id is None
    ]
    for adapter in adapters:
        if adapter.run_id is None:
            continue
        try:
            scores = _scores(evaluation, adapter.label)
            tracking.log_metrics(adapter.run_id, adapter.spec.steps, scores)
            _write_on_version(tracking, adapter, scores)
        except NotFoundError as problem:
            problems.append(f"{problem}; the scores of {adapter.label} are only here")
        except UnreachableError:
            problems.append(f"MLflow at {tracking.uri} does not answer; scores from {adapter.label} on are only here")
            break
    return problems


def _write_on_version(tracking: MlflowTracking, adapter: Trained, scores: dict[str, float]) -> None:
    """Fidelity, which is the first score, on the adapter's version, if it is registered."""
    version = tracking.registered(adapter.spec.adapter, adapter.spec.id)
    if version is not None and scores:
        metric, value = next(iter(scores.items()))
        tracking.write_score(version.name, version.version, Score(metric.removeprefix("eval/"), value))


def _scores(evaluation: Evaluation, label: str) -> dict[str, float]:
    rows = [row for row in evaluation.rows if row.arm == ADAPTER and row.candidate == label]
    return {
        f"eval/{column.label}": value
        for row in rows
        for column in evaluation.columns
        if (value := row.scores.get(column)) is not None
    }
