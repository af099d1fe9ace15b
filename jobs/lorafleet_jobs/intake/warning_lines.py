"""What a check found, for those who plan and submit: one line each, many of one kind as one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from lorafleet_jobs.dataset.doctor import SubjectReport
from lorafleet_jobs.dataset.findings import Finding, Level, some

_PARTICULAR = re.compile(r"\S*[\d.']\S*")
"""Words that are file names, numbers or quoted."""
LEVELS: tuple[Level, ...] = ("error", "warn", "info")
"""The worst first."""
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


@dataclass(frozen=True)
class ToldFinding:
    """One line about one or many subjects."""

    level: Level
    id: str
    text: str


def told_findings(reports: Sequence[SubjectReport], levels: Collection[Level]) -> list[ToldFinding]:
    """Findings of these levels, the worst first; what says the same of more than a few subjects is told once."""
    by_kind: dict[tuple[str, ...], list[tuple[str, Finding]]] = {}
    for report in reports:
        for finding in grouped(report.findings):
            if finding.level in levels:
                by_kind.setdefault(_kind_anywhere(finding, report.name), []).append((report.name, finding))
    lines = [line for alike in by_kind.values() for line in _told_of(alike)]
    return sorted(lines, key=lambda line: LEVELS.index(line.level))


def _told_of(alike: Sequence[tuple[str, Finding]]) -> Iterator[ToldFinding]:
    (subject, first), others = alike[0], list(dict.fromkeys(name for name, _ in alike[1:]))
    if len(alike) <= EACH:
        yield from (ToldFinding(one.level, one.id, f"{name}: {one.message}") for name, one in alike)
        return
    count = len(dict.fromkeys(name for name, _ in alike))
    also = f" (and {some([name for name in others if name != subject])})" if count > 1 else ""
    yield ToldFinding(first.level, first.id, f"{count} subject{'s' * (count > 1)}: {subject}: {first.message}{also}")


def _kind_anywhere(finding: Finding, subject: str) -> tuple[str, ...]:
    """What a finding says, without the names and numbers in it, whether it is about a file or a folder."""
    words = finding.message.replace(finding.file or subject, "").replace(subject, "")
    return finding.id, finding.level, " ".join(_PARTICULAR.sub("", words).split())


def grouped(findings: Sequence[Finding]) -> list[Finding]:
    """Findings in their order; of more than a few that say the same of many files the first, and the others' files."""
    by_kind: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(_kind(finding), []).append(finding)
    shown = []
    for finding in findings:
        alike = by_kind[_kind(finding)]
        if len(alike) <= EACH or finding.file is None:
            shown.append(finding)
        elif finding is alike[0]:
            files = some([str(one.file) for one in alike[1:]])
            more = f" (and {len(alike) - 1} more of {finding.id}: {files}; --json tells each)"
            shown.append(finding.with_changes(message=finding.message + more))
    return shown


def _kind(finding: Finding) -> tuple[str, ...]:
    """What a finding says, without the names and numbers in it."""
    words = _PARTICULAR.sub("", finding.message.replace(finding.file or "", ""))
    return finding.id, finding.level, words if finding.file is not None else finding.message


def _told(report: SubjectReport) -> list[Finding]:
    first = report.errors[0] if report.errors else None
    return [finding for finding in report.findings if finding.level != "info" and finding is not first]


def _lines(id: str, messages: Sequence[tuple[str, str]]) -> list[str]:  # noqa: A002
    lines = [f"{subject}: {id}: {message}" for subject, message in messages]
    if len(messages) <= EACH:
        return lines
    others = list(dict.fromkeys(subject for subject, _ in messages[1:]))
    return [f"{lines[0]} (and {len(messages) - 1} more of {id}, of {', '.join(others)}; lorafleet check lists them)"]
