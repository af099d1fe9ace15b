"""Submissions read back from MLflow: found by id, name and beginning, with what their jobs made."""

import pytest
from tracked_jobs import bundle_at, job

from lorafleet.errors import AmbiguousError, NotFoundError
from lorafleet.tracking.submissions import SubmissionRecords


@pytest.fixture
def records(tracking):
    return SubmissionRecords(tracking.uri)


def trained(tracking, home, parent, name, job_id):
    child = tracking.start_job(parent, job(name, job_id=job_id, folder=f"/photos/of {name}"))
    bundle = bundle_at(home / "bundles" / job_id, name, job_id)
    tracking.log_bundle(child, bundle.path)
    return tracking.register(bundle, child)


def test_a_submission_is_found_by_id_name_and_beginning_with_its_versions(tracking, home, records):
    old = tracking.start_submission("cats", "cats-aa01", {}, "name: cats\n")
    trained(tracking, home, old, "mimi", "1" * 16)
    trained(tracking, home, old, "momo", "2" * 16)
    new = tracking.start_submission("cats", "cats-ab02", {}, "name: cats\nbase: toy-sdxl\n")
    trained(tracking, home, new, "mimi", "3" * 16)
    tracking.start_job(new, job("later", job_id="4" * 16))
    assert records.find("cats-aa01").run_id == records.find("cats-aa").run_id == old
    found = records.find("cats")
    assert (found.run_id, found.id, found.name, found.manifest) == (
        new,
        "cats-ab02",
        "cats",
        "name: cats\nbase: toy-sdxl\n",
    )
    assert [(one.adapter, one.version) for one in found.versions] == [("mimi", 2)]
    assert [(one.adapter, one.version) for one in records.find("cats-aa").versions] == [("mimi", 1), ("momo", 1)]
    assert str(found.versions[0].photos) == "/photos/of mimi"
    with pytest.raises(AmbiguousError, match="cats-aa01, cats-ab02"):
        records.find("cats-a")
    assert records.find("nobody") is None


def test_an_adapter_that_was_published_again_is_the_first_submission_s_version(tracking, home, records):
    first, second = (tracking.start_submission(name, f"{name}-01", {}, "") for name in ("first", "second"))
    version = trained(tracking, home, first, "zoe", "5" * 16)
    assert trained(tracking, home, second, "zoe", "5" * 16).version == version.version
    assert [one.version for one in records.find("second").versions] == [version.version]
    assert records.of_version_run(version.run_id).run_id == first


def test_runs_without_a_submission(tracking, records):
    imported = tracking.start_import("lcm", "6" * 16, {})
    assert records.of_version_run(imported) is None
    assert records.of_version_run(None) is None
    assert records.of_version_run("0" * 32) is None
    with pytest.raises(NotFoundError, match="does not know run"):
        records.of_run("0" * 32)


def test_files_are_kept_under_a_run(tracking, parent, records, tmp_path):
    assert records.kept(parent, "votes") == {}
    (tmp_path / "a.json").write_text("é")
    records.keep(parent, [tmp_path / "a.json"], "votes")
    records.keep(parent, [tmp_path / "a.json"], "votes")
    assert records.kept(parent, "votes") == {"a.json": "é"}


def test_asking_where_nothing_was_tracked_creates_nothing(tmp_path):
    assert SubmissionRecords(f"sqlite:///{tmp_path / 'mlflow.db'}").find("pets") is None
    assert not list(tmp_path.iterdir())
