"""Descriptions that lead from a run to its relatives: of its children MLflow's pages show a parent only the names.

MLflow routes by the part of an address after `#`, so links that begin with it work behind any host and prefix. Knows
Markdown; refuses to know how runs are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from lorafleet.bundle.bundle import PREVIEW

TRAINING = "workflowType=machine_learning"
"""Without it MLflow opens its pages for language models, which show neither runs nor the registry."""
NOTE = "mlflow.note.content"
NOTE_AT_MOST = 8000  # characters; MLflow's limit for a tag
ORDER = ("failed", "running", "queued", "cancelled", "stopped", "succeeded")
"""What a reader looks for first."""
IDS_AT_MOST = 100
"""Runs that an address names one by one."""


@dataclass(frozen=True)
class Child:
    """A job's run, as its submission's table shows it."""

    run_id: str
    experiment: str
    name: str
    state: str
    """Of the job, in the queue's words."""
    adapter: str
    version: str | None
    """None while nothing is registered."""
    reused: bool = False
    """Whether another submission trained it."""


def parent_note(experiment: str, parent: str, children: Sequence[Child]) -> str:
    """A table of links to the jobs' runs and versions, failed ones first; as many rows as MLflow has room for."""
    counts = ", ".join(
        f"{sum(child.state == state for child in children)} {state}"
        for state in ORDER
        if any(child.state == state for child in children)
    )
    page = runs_page(experiment, parent, named(experiment, children))
    ways = f"[pictures and curves]({page}&compareRunsMode=CHART), [prompts x runs]({page}&compareRunsMode=ARTIFACT)"
    head = f"{len(children)} job{'s' * (len(children) != 1)}: {counts}. Side by side: {ways}, [table]({page})"
    lines = [head, "", "| job | state | adapter |", "|---|---|---|"]
    size = sum(len(line) + 1 for line in lines)
    ordered = sorted(children, key=lambda child: (ORDER.index(child.state), child.name))
    for number, child in enumerate(ordered):
        state = f"{child.state}, trained earlier" if child.reused else child.state
        row = f"| {run_link(child.experiment, child.run_id, child.name)} | {state} | {_version(child)} |"
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


def named(experiment: str, children: Sequence[Child]) -> list[str]:
    """The runs that an address must name one by one, since another submission made some; none where they are many."""
    here = [child for child in children if child.experiment == experiment]
    few = len(here) <= IDS_AT_MOST
    return [child.run_id for child in here] if few and any(child.reused for child in here) else []


def runs_page(experiment: str, parent: str, runs: Sequence[str] = ()) -> str:
    """The runs of a submission in one flat table, by name: those under its own run, or exactly `runs`.

    Sorted by anything but time, MLflow lists the runs themselves; by time it folds them into their parent.
    """
    ids = ", ".join(f"'{run}'" for run in runs)
    wanted = f"attributes.run_id IN ({ids})" if runs else f"tags.`mlflow.parentRunId` = '{parent}'"
    query = {"searchFilter": wanted, "orderByKey": "tags.`mlflow.runName`", "orderByAsc": "true"}
    return f"#/experiments/{experiment}/runs?{TRAINING}&{urlencode(query, quote_via=quote)}"
