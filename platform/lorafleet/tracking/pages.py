"""Where MLflow shows a submission or an adapter: the part of an address behind the server's own.

Knows how MLflow's pages are addressed; refuses to know where they are served.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from mlflow.exceptions import MlflowException

from lorafleet.errors import NotFoundError
from lorafleet.tracking.client import ABSENT, connect, reaching
from lorafleet.tracking.links import TRAINING, runs_page
from lorafleet.tracking.promotion import find_version
from lorafleet.tracking.runs import SHOWN, SUBMISSION

EVERYTHING = f"#/experiments?{TRAINING}"
WORD = re.compile(r"[A-Za-z0-9._-]+")


def page_of(uri: str, wanted: str | None) -> str:
    """The page of a submission (its id, its name, a beginning of its id) or of an adapter, NAME[@VERSION|ALIAS].

    Without either, the list of experiments. A word that is both is an adapter, unless it is a submission's whole id.
    Raises NotFoundError, UnreachableError.
    """
    if wanted is None:
        return EVERYTHING
    client: Any = connect(uri)
    name, at, version = wanted.partition("@")
    if WORD.fullmatch(name):
        with reaching(uri):
            page = (None if at else _of_submission(client, f"tags.`{SUBMISSION}` = '{name}'")) or _of_adapter(
                client, name, version
            )
            if page is None and not at:
                page = _of_name(client, name) or _of_submission(client, f"tags.`{SUBMISSION}` LIKE '{name}%'")
        if page is not None:
            return page
    raise NotFoundError(f"MLflow has no submission and no adapter {wanted!r}; see: lorafleet ls, lorafleet adapters ls")


def _of_submission(client: Any, wanted: str, experiments: list[str] | None = None) -> str | None:
    """The runs of the newest submission that fits, their pictures and curves beside each other."""
    where = [one.experiment_id for one in client.search_experiments()] if experiments is None else experiments
    found = client.search_runs(where, wanted, max_results=1, order_by=["attributes.start_time DESC"]) if where else []
    if not found:
        return None
    run = found[0]
    shown = json.loads(run.data.tags.get(SHOWN, "[]"))
    return f"{runs_page(run.info.experiment_id, run.info.run_id, shown)}&compareRunsMode=CHART"


def _of_name(client: Any, name: str) -> str | None:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    return _of_submission(client, f"tags.`{SUBMISSION}` LIKE '%'", [experiment.experiment_id])


def _of_adapter(client: Any, name: str, version: str) -> str | None:
    """The registered model, or one version of it; NotFoundError for a version that there is not."""
    try:
        client.get_registered_model(name)
    except MlflowException as problem:
        if problem.error_code != ABSENT:
            raise
        return None
    page = f"#/models/{quote(name, safe='')}"
    if not version:
        return f"{page}?{TRAINING}"
    if (found := find_version(client, name, version)) is None:
        raise NotFoundError(f"adapter {name!r} has no version or alias {version!r}; see: lorafleet adapters ls")
    return f"{page}/versions/{found.version}?{TRAINING}"
