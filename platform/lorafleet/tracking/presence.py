"""Which versions are registered: asked about many at once. Knows MLflow's pages; refuses to know bundles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mlflow.exceptions import MlflowException

from lorafleet.bundle.ports import AdapterVersion
from lorafleet.tracking.client import ABSENT
from lorafleet.tracking.facts import DIGEST, facts_of

PAGE = 1000
AT_ONCE = 100
"""Runs that one question names."""


def still_registered(client: Any, adapters: Collection[AdapterVersion]) -> set[tuple[str, int, str | None]]:
    """Name, number and run of the versions that the runs of these adapters have now."""
    runs = sorted({adapter.run_id for adapter in adapters if adapter.run_id is not None})
    found: set[tuple[str, int, str | None]] = set()
    for start in range(0, len(runs), AT_ONCE):
        wanted = ", ".join(f"'{run}'" for run in runs[start : start + AT_ONCE])
        versions = pages(lambda wanted=wanted, **page: client.search_model_versions(f"run_id IN ({wanted})", **page))
        found |= {(one.name, int(one.version), one.run_id) for one in versions}
    return found


def unregistered(client: Any, cards: Mapping[str, str]) -> tuple[str, ...]:
    """Those digests of cards, given with their jobs' ids, that no registered version has.

    A version that was registered without its digest stands for any bundle of its job.
    """
    facts = [facts_of(version) for version in pages(client.search_model_versions)]
    digests = {one[DIGEST] for one in facts if DIGEST in one}
    jobs = {one.get("job_id") for one in facts if DIGEST not in one}
    return tuple(digest for digest, job in cards.items() if digest not in digests and job not in jobs)


def registered_jobs(client: Any) -> set[str]:
    """The ids of the jobs that have a registered version."""
    versions = pages(client.search_model_versions)
    return {version.tags["job_id"] for version in versions if version.tags.get("published") == "true"}


def is_open(client: Any, run_id: str) -> bool:
    """Whether there is a run that is not marked as deleted."""
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as problem:
        if problem.error_code != ABSENT:
            raise
        return False


def pages(search: Any) -> list[Any]:
    """Everything that a search of MLflow's finds, page after page."""
    items: list[Any] = []
    token = None
    while True:
        page = search(max_results=PAGE, page_token=token)
        items += page
        token = page.token
        if not token:
            return items
