"""An evaluation for people and as JSON. Knows tables; refuses to know how scores were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from lorafleet_jobs.evaluate.arms import ADAPTER
from lorafleet_jobs.evaluate.bootstrap import Interval
from lorafleet_jobs.evaluate.run import Evaluation
from lorafleet_jobs.evaluate.suite import ASPECTS, Column
from lorafleet_jobs.evaluate.verdict import Reading, Verdict, recommendations, verdicts

HEADING = 9
"""Letters of a heading before it is cut."""


def verdict_table(found: Sequence[Verdict], title: str) -> Table:
    """What each adapter is worth, in a word and a figure for each aspect."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("adapter", overflow="fold")
    for aspect in ASPECTS:
        table.add_column("memorised?" if aspect == "memorised" else aspect, no_wrap=True)
    for one in found:
        table.add_row(one.adapter, *(_worded(one.readings[aspect]) for aspect in ASPECTS))
    return table


def _worded(reading: Reading) -> str:
    return reading.word if reading.value is None else f"{reading.word} [dim]{reading.value:.2f}[/]"


def tables(evaluation: Evaluation) -> list[Table]:
    """The arms over all subjects with their intervals, in as many tables as the suite asks for; then each adapter."""
    groups = sorted({column.table for column in evaluation.columns})
    by_group = [[column for column in evaluation.columns if column.table == group] for group in groups]
    return [
        *(_of_arms(evaluation, columns) for columns in by_group),
        *(_of_adapters(evaluation, columns) for columns in by_group),
    ]


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The document of `evaluate --json`."""
    return {
        "title": evaluation.title,
        "notes": list(evaluation.notes),
        "scale_0_is_base": evaluation.zero_is_base,
        "scores": [{"name": column.label, "better": column.better} for column in evaluation.columns],
        "arms": {
            arm: {column.label: _document(evaluation.interval(arm, column)) for column in evaluation.columns}
            for arm in evaluation.arms
        },
        "adapter_minus": {
            arm: {column.label: _document(evaluation.difference(ADAPTER, arm, column)) for column in evaluation.columns}
            for arm in evaluation.arms
            if arm != ADAPTER
        },
        "verdict": _verdict(verdicts(evaluation)),
        "rows": [
            {"adapter": row.candidate, "subject": row.subject, "arm": row.arm, **row.scores.as_json()}
            for row in evaluation.rows
        ],
    }


def _verdict(found: Sequence[Verdict]) -> dict[str, Any]:
    words = [
        {"adapter": one.adapter, "subject": one.subject, **{aspect: one.readings[aspect].word for aspect in ASPECTS}}
        for one in found
    ]
    return {"adapters": words, "recommendations": recommendations(found)}


def _of_arms(evaluation: Evaluation, columns: list[Column]) -> Table:
    subjects = len({row.subject for row in evaluation.rows})
    over = "1 subject" if subjects == 1 else f"mean over {subjects} subjects, with 95 % bootstrap interval over them"
    table = _table(f"{evaluation.title}: {over}", "arm", columns)
    for arm in evaluation.arms:
        table.add_row(arm, *(_cell(evaluation.interval(arm, column)) for column in columns))
    return table


def _of_adapters(evaluation: Evaluation, columns: list[Column]) -> Table:
    table = _table(f"{evaluation.title}: each adapter", "adapter", columns)
    for row in evaluation.rows:
        if row.arm == ADAPTER:
            table.add_row(row.candidate, *(_number(row.scores.get(column)) for column in columns))
    return table


def _table(title: str, first: str, columns: list[Column]) -> Table:
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True, header_style="bold"
    )
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(_heading(column), justify="right", no_wrap=True)
    return table


def _heading(column: Column) -> str:
    """The label, a long one cut after its second part, and an arrow towards better."""
    label = column.label
    if len(label) > HEADING and label.count("-") > 1:
        first, second, rest = label.split("-", 2)
        label = f"{first}-{second}-\n{rest}"
    return f"{label} {'↑' if column.better == 'higher' else '↓'}"


def _document(value: Interval | None) -> dict[str, float | int | None] | None:
    return None if value is None else value.as_json()


def _cell(value: Interval | None) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.mean:.3f}"
    return f"{value.mean:.3f}\n[dim]{value.low:.2f}..{value.high:.2f}[/]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
