"""Where `lorafleet ui` leads: a submission's runs side by side, an adapter's page, and never the pages of others."""

import uuid
from urllib.parse import parse_qs

import pytest
from tracked_jobs import bundle_at, job

from lorafleet.errors import NotFoundError
from lorafleet.tracking.pages import EVERYTHING, page_of


@pytest.fixture(scope="module")
def two(tracking):
    """Two submissions of one name, the older first: their ids and the runs' ids."""
    name = f"fleet-{uuid.uuid4().hex[:6]}"
    ids = [f"{name}-{digits}" for digits in ("0123456789", "fedcba9876")]
    return name, [(id_, tracking.start_submission(name, id_, {}, "")) for id_ in ids]


def asked(page):
    path, _, query = page.partition("?")
    return path, {key: value for key, [value] in parse_qs(query).items()}


def test_a_submission_is_found_by_its_id_a_beginning_of_it_or_its_name(tracking, two):
    name, [(old, old_run), (new, new_run)] = two
    experiment = tracking.client.get_experiment_by_name(name).experiment_id
    for wanted, run in [(old, old_run), (new, new_run), (old[:-2], old_run), (name, new_run)]:
        path, query = asked(page_of(tracking.uri, wanted))
        assert path == f"#/experiments/{experiment}/runs"
        assert query == {
            "workflowType": "machine_learning", "compareRunsMode": "CHART", "orderByAsc": "true",
            "orderByKey": "tags.`mlflow.runName`", "searchFilter": f"tags.`mlflow.parentRunId` = '{run}'",
        }, wanted  # fmt: skip


def test_what_the_page_asks_for_finds_the_jobs_by_name(tracking, two):
    _, [(old, old_run), _] = two
    for name in ("rex rank 4", "ben rank 4"):
        tracking.start_job(old_run, job(name=name, job_id=uuid.uuid4().hex[:16]))
    path, query = asked(page_of(tracking.uri, old))
    found = tracking.client.search_runs(
        [path.split("/")[2]], query["searchFilter"], order_by=[f"{query['orderByKey']} ASC"]
    )
    assert [run.info.run_name for run in found] == ["ben rank 4", "rex rank 4"]


def test_an_adapter_is_its_page_in_the_registry(tracking, parent, home):
    name = f"rex-{uuid.uuid4().hex[:6]}"
    child = tracking.start_job(parent, job(name))
    tracking.register(bundle_at(home / "bundles" / name, name, "d" * 16), child)
    training = "?workflowType=machine_learning"
    assert page_of(tracking.uri, name) == f"#/models/{name}{training}"
    for version in ("1", "champion"):
        assert page_of(tracking.uri, f"{name}@{version}") == f"#/models/{name}/versions/1{training}"
    with pytest.raises(NotFoundError, match="no version or alias '7'"):
        page_of(tracking.uri, f"{name}@7")
    tracking.start_submission(name, f"{name}-0011223344", {}, "")
    assert page_of(tracking.uri, name).startswith("#/models/"), "a word that is both is an adapter"


def test_nothing_named_is_everything_and_a_word_that_is_nothing_is_refused(tracking):
    assert page_of(tracking.uri, None) == EVERYTHING
    for wrong in ("nobody", "nobody@1", "x' OR 1", "%", ""):
        with pytest.raises(NotFoundError, match="no submission and no adapter"):
            page_of(tracking.uri, wrong)


def test_the_command_says_where_a_server_shows_it(lorafleet, monkeypatch, capsys, tracking, two):
    monkeypatch.setattr("lorafleet.commands.ui_command.page_of", lambda uri, wanted: f"#/{wanted}")
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ml:secret@127.0.0.1:9")
    assert lorafleet("ui", "pets") == 0
    assert capsys.readouterr().err == "MLflow: http://127.0.0.1:9/#/pets\n"
    assert opened == [], "no screen"
    assert lorafleet("ui", "--open", "pets") == 0
    assert opened == ["http://127.0.0.1:9/#/pets"]
