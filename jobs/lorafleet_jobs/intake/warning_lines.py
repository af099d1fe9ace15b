"""What a check found, for those who plan and submit: one line each, many of one kind as one."""

from __future__ import annotations

from collections.abc import Sequence

from lorafleet_jobs.dataset.doctor import SubjectReport
from lorafleet_jobs.dataset.findings import Finding

EACH = 3
"""Findings of one id that are told one by one; of more the first is told and the others counted."""


def warning_lines(reports: Sequence[SubjectReport]) -> list[str]:
    """Warnings of all subjects, and what keeps a subject from training beyond the first such thing.

    That first one is the reason for which the plan leaves the subject out.
    """
    by_id: dict[str, list[tuple[str, str]]] = {}
    for report in reports:
        for finding in _told(report):
            by_id.setdefault(finding.id, []).append((report.name, finding.message))
    return [line for id, messages in by_id.items() for line in _lines(id, messages)]  # noqa: A001


def loud_findings(reports: Sequence[SubjectReport]) -> list[dict[str, object]]:
    """Warnings and errors of all subjects, as `plan --json` prints them."""
    return [
        {"subject": report.name, **finding.model_dump()}
        for report in reports
        for finding in report.findings
        if finding.level != "info"
    ]


def _told(report: SubjectReport) -> list[Finding]:
    first = report.errors[0] if report.errors else None
    return [finding for finding in report.findings if finding.level != "info" and finding is not first]


def _lines(id: str, messages: Sequence[tuple[str, str]]) -> list[str]:  # noqa: A002
    lines = [f"{subject}: {id}: {message}" for subject, message in messages]
    if len(messages) <= EACH:
        return lines
    others = list(dict.fromkeys(subject for subject, _ in messages[1:]))
    return [f"{lines[0]} (and {len(messages) - 1} more of {id}, of {', '.join(others)}; lorafleet check lists them)"]
