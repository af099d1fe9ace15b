"""Descriptions that lead from a run to its relatives: of its children MLflow's pages show a parent only the names.

MLflow routes by the part of an address after `#`, so links that begin with it work behind any host and prefix. Knows
Markdown; refuses to know how runs are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from lorafleet.bundle.bundle import PREVIEW

NOTE = "mlflow.note.content"
NOTE_AT_MOST = 8000  # characters; MLflow's limit for a tag
ORDER = ("FAILED", "RUNNING", "SCHEDULED", "KILLED", "FINISHED")
"""What a reader looks for first."""


@dataclass(frozen=True)
class Child:
    """A job's run, as its parent's table shows it."""

    run_id: str
    name: str
    status: str
    adapter: str
    version: str | None
    """None while nothing is registered."""


def parent_note(experiment: str, parent: str, children: Sequence[Child]) -> str:
    """A table of links to the jobs' runs and versions, failed ones first; as many rows as MLflow has room for."""
    counts = ", ".join(
        f"{sum(child.status == status for child in children)} {status.lower()}"
        for status in ORDER
        if any(child.status == status for child in children)
    )
    head = f"{len(children)} jobs: {counts}. [All of them in a table]({_all(experiment, parent)})"
    lines = [head, "", "| job | state | adapter |", "|---|---|---|"]
    size = sum(len(line) + 1 for line in lines)
    ordered = sorted(children, key=lambda child: (ORDER.index(child.status), child.name))
    for number, child in enumerate(ordered):
        row = f"| {run_link(experiment, child.run_id, child.name)} | {child.status.lower()} | {_version(child)} |"
        rest = f"| and {len(ordered) - number} more | | |"
        size += len(row) + 1
        if size + len(rest) > NOTE_AT_MOST:
            lines.append(rest)
            break
        lines.append(row)
    return "\n".join(lines)


def child_note(experiment: str, parent: str, parent_name: str) -> str:
    """A job's way back to its submission."""
    return f"Part of {run_link(experiment, parent, parent_name)}"


def made_note(before: str, run_id: str, adapter: str, version: str) -> str:
    """A job's note once it has made a version: the way there, and the pictures."""
    return f"{before}; made {version_link(adapter, version)}\n\n{preview(run_id)}"


def preview(run_id: str) -> str:
    """The preview of the bundle that a run holds, as Markdown; MLflow serves it, beside its pages."""
    address = f"get-artifact?path={quote(f'adapter/{PREVIEW}', safe='')}&run_uuid={run_id}"
    return f"![base, words only, adapter]({address})\n\n*base | words only | adapter*"


def run_link(experiment: str, run_id: str, text: str) -> str:
    """A Markdown link to a run."""
    return f"[{text}](#/experiments/{experiment}/runs/{run_id})"


def version_link(adapter: str, version: str) -> str:
    """A Markdown link to a version of a registered model."""
    return f"[{adapter}@{version}](#/models/{quote(adapter, safe='')}/versions/{version})"


def _version(child: Child) -> str:
    return version_link(child.adapter, child.version) if child.version else child.adapter


def _all(experiment: str, parent: str) -> str:
    wanted = quote(f"tags.`mlflow.parentRunId` = '{parent}'", safe="")
    return f"#/experiments/{experiment}/runs?searchFilter={wanted}"
