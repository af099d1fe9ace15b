"""Adapters in MLflow's registry: registered once, found by number and alias, and trusted only if whole."""

import pytest
from tracked_jobs import bundle_at, job

from lorafleet.bundle.bundle import WEIGHTS, write_bundle
from lorafleet.errors import BundleError, NotFoundError
from lorafleet.tracking import MlflowRegistry, presence


def test_a_job_is_registered_once_and_becomes_champion(tracking, parent, home):
    child = tracking.start_job(parent, job())
    bundle = bundle_at(home / "bundles" / ("a" * 16))
    tracking.log_bundle(child, bundle.path)
    assert tracking.registered("rex", "a" * 16) is None
    first = tracking.register(bundle, child)
    again = tracking.register(bundle, child)
    assert first == again == tracking.registered("rex", "a" * 16)
    assert (first.version, first.aliases, first.triggers) == (1, ("champion",), ("<rex>",))
    assert first.base_fingerprint == bundle.card.base_fingerprint
    second = tracking.register(bundle_at(home / "bundles" / ("b" * 16), job_id="b" * 16), child)
    assert (second.version, second.aliases) == (2, ("challenger",))
    listed = MlflowRegistry(tracking.uri, home / "cache").list()
    assert [(one.version, one.aliases) for one in listed] == [(2, ("challenger",)), (1, ("champion",))]
    assert {one.base_fingerprint for one in listed} == {bundle.card.base_fingerprint}


def test_more_versions_than_fit_on_a_page_of_mlflows_are_all_found(tracking, parent, home, monkeypatch):
    monkeypatch.setattr(presence, "PAGE", 2)
    child = tracking.start_job(parent, job("ben"))
    ids = [str(n) * 16 for n in range(5)]
    for id_ in ids:
        tracking.register(bundle_at(home / "bundles" / f"ben{id_}", "ben", id_), child)
    assert [tracking.registered("ben", id_).version for id_ in ids] == [1, 2, 3, 4, 5]
    listed = MlflowRegistry(tracking.uri, home / "cache").list()
    assert [one.version for one in listed if one.name == "ben"] == [5, 4, 3, 2, 1]


def test_an_interrupted_registration_is_completed(tracking, parent, home):
    child = tracking.start_job(parent, job("cut"))
    bundle = bundle_at(home / "bundles" / "cut", "cut", "c" * 16)
    tracking.log_bundle(child, bundle.path)
    tags = {"job_id": "c" * 16, "base": "toy-playground", "path": str(bundle.path)}
    tracking.client.create_registered_model("cut")
    tracking.client.create_model_version("cut", f"runs:/{child}/adapter", run_id=child, tags=tags)
    assert tracking.registered("cut", "c" * 16) is None
    assert tracking.register(bundle, child).aliases == ("champion",)
    assert len(tracking.client.search_model_versions("name = 'cut'")) == 1


def test_registering_again_leaves_a_champion_that_was_chosen_by_hand(tracking, parent, home):
    child = tracking.start_job(parent, job("tom"))
    bundles = [bundle_at(home / "bundles" / f"tom{n}", "tom", str(n) * 16) for n in (1, 2)]
    for bundle in bundles:
        tracking.register(bundle, child, "always")
    tracking.client.set_registered_model_alias("tom", "champion", "1")
    assert tracking.register(bundles[1], child, "always").aliases == ()


def test_resolve_finds_numbers_and_aliases_and_says_what_there_is(tracking, parent, home):
    child = tracking.start_job(parent, job("mia"))
    bundle = bundle_at(home / "bundles" / "mia", "mia", "d" * 16)
    tracking.log_bundle(child, bundle.path)
    tracking.register(bundle, child)
    registry = MlflowRegistry(tracking.uri, home / "cache")
    assert registry.resolve("mia") == registry.resolve("mia", "1") == registry.resolve("mia", "champion")
    with pytest.raises(NotFoundError, match="versions: 1; aliases: champion"):
        registry.resolve("mia", "7")
    with pytest.raises(NotFoundError, match="versions: 1; aliases: champion"):
        registry.resolve("mia", "best")
    with pytest.raises(NotFoundError, match=r"no adapter 'mai'; there are: .*mia"):
        registry.resolve("mai")


def test_a_damaged_artifact_is_passed_over_for_an_intact_copy_and_refused_without_one(tracking, parent, home):
    child = tracking.start_job(parent, job("bad"))
    bundle = bundle_at(home / "bundles" / "bad", "bad", "e" * 16)
    tracking.log_bundle(child, bundle.path)
    version = tracking.register(bundle, child)
    registry = MlflowRegistry(tracking.uri, home / "cache")
    stored = registry.resolve("bad").path
    assert stored != version.path, "the run's artifact is the copy that training again does not touch"
    for folder in (stored, version.path):
        assert registry.resolve("bad").path == folder
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="do not match the sha256"):
        registry.resolve("bad")
    assert registry.cache_stats().bytes == 0


def test_a_bundle_of_the_same_job_trained_again_is_not_the_one_that_was_registered(tracking, parent, home):
    child = tracking.start_job(parent, job("eve"))
    bundle = bundle_at(home / "bundles" / "eve", "eve", "f" * 16)
    tracking.log_bundle(child, bundle.path)
    tracking.register(bundle, child)
    registry = MlflowRegistry(tracking.uri, home / "cache")
    stored = registry.resolve("eve").path
    write_bundle(stored, bundle.card.with_changes(steps=24), {WEIGHTS: (stored / WEIGHTS).read_bytes()})
    assert registry.resolve("eve").path == bundle.path
    write_bundle(bundle.path, bundle.card.with_changes(steps=24), {WEIGHTS: (stored / WEIGHTS).read_bytes()})
    with pytest.raises(BundleError, match="sha256"):
        registry.resolve("eve")


def test_a_home_without_adapters_is_empty_and_stays_untouched(tmp_path):
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}", tmp_path / "cache")
    assert registry.list() == []
    with pytest.raises(NotFoundError, match="submit a manifest"):
        registry.resolve("rex")
    assert not (tmp_path / "new" / "mlflow.db").exists()
