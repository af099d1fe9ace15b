"""The registry on MLflow where bundles do not lie on this machine: fetched by digest, kept, held, and gone."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from lorafleet.bundle.bundle import CARD, WEIGHTS, AdapterCard, Trigger, sha256_of, write_bundle
from lorafleet.errors import BundleError, NotFoundError, UnreachableError
from lorafleet.tracking import JobInfo, MlflowRegistry
from lorafleet.tracking.registry import FACTS


@pytest.fixture(scope="module")
def publish(tracking, home):
    """publish(name, job) -> its run: an adapter version whose bundle this machine has only through MLflow."""
    parent = tracking.start_submission("pets", "0123456789abcdef", {}, "name: pets\n")

    def make(name, job_id):
        info = JobInfo(
            name=name, job_id=job_id, subject=name, adapter=name, params={}, recipe_yaml="",
            folder="/photos", images=5, dataset_fingerprint="f" * 64,
        )  # fmt: skip
        card = AdapterCard(
            name=name, base="toy-playground", base_fingerprint="0" * 16, prediction="edm", rank=4, alpha=4,
            targets=("to_q",), triggers=(Trigger(trigger=f"<{name}>", abstraction="TOK"),), class_noun="dog",
            instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="f", images=5, steps=12,
            licence="apache-2.0", job_id=job_id, lorafleet_version="0.1.0",
        )  # fmt: skip
        run = tracking.start_job(parent, info)
        bundle = write_bundle(home / "bundles" / job_id, card, {WEIGHTS: save({"a": torch.ones(4, 8)})})
        tracking.log_bundle(run, bundle.path)
        version = tracking.register(bundle, run)
        client = tracking.client
        client.set_model_version_tag(name, str(version.version), "artifact_uri", "mlflow-artifacts:/elsewhere")
        client.set_model_version_tag(name, str(version.version), "path", "/another/machine")
        return run

    return make


@pytest.fixture
def registry(tracking, tmp_path):
    return MlflowRegistry(tracking.uri, tmp_path / "cache")


def test_a_bundle_is_kept_under_its_card_s_digest_and_downloaded_once(registry, publish, home):
    publish("rex", "a" * 16)
    digest = sha256_of(home / "bundles" / ("a" * 16) / CARD)
    again = MlflowRegistry(registry.uri, registry.cache)
    assert registry.list()[0].path == registry.resolve("rex").path == again.resolve("rex", "1").path
    assert registry.resolve("rex").path == registry.cache / digest
    assert (registry.cache_stats().misses, again.cache_stats().misses) == (1, 0)


def test_damage_is_fetched_again_and_what_is_held_is_not_dropped(registry, publish, tracking):
    for name in ("mia", "tom"):
        publish(name, name * 4)
    adapter = registry.resolve("mia")
    (adapter.path / WEIGHTS).write_bytes(b"garbage")
    assert registry.resolve("mia") == adapter
    small = MlflowRegistry(tracking.uri, registry.cache, capacity=1)
    with registry.hold(adapter) as there:
        assert there
        small.resolve("tom")
        assert adapter.path.is_dir()
    with registry.hold(registry.resolve("tom")):
        publish("cup", "c" * 16)
        small.resolve("cup")
    with registry.hold(adapter) as there:
        assert not there
    assert registry.cache_stats().damaged == 1


def test_a_version_registered_without_a_digest_is_found_by_its_card(registry, publish, tracking, home):
    publish("old", "d" * 16)
    tracking.client.delete_model_version_tag("old", "1", FACTS)
    tracking.client.set_model_version_tag("old", "1", "triggers", '["<old>"]')  # as it was written at that time
    assert registry.resolve("old").triggers == ("<old>",)
    assert registry.resolve("old").path.name == sha256_of(home / "bundles" / ("d" * 16) / CARD)


def test_an_artifact_that_is_not_what_was_registered_is_refused(registry, publish, tracking):
    publish("cat", "e" * 16)
    tracking.client.set_model_version_tag("cat", "1", "card_sha256", "0" * 64)
    with pytest.raises(BundleError, match="publish the adapter again"):
        registry.resolve("cat")
    assert registry.cache_stats().bytes == 0


def test_an_artifact_that_is_gone_is_not_found(registry, publish, tracking):
    run = publish("dog", "f" * 16)
    shutil.rmtree(Path(tracking.client.get_run(run).info.artifact_uri.removeprefix("file://").replace("%20", " ")))
    with pytest.raises(NotFoundError, match=f"dog@1 is registered, but its bundle is gone from run {run}"):
        registry.resolve("dog")


def test_a_disk_that_cannot_be_written_is_named(tracking, publish, tmp_path):
    publish("bat", "b" * 16)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UnreachableError, match=r"cannot be kept in .*file.* \(Not a directory\)"):
        MlflowRegistry(tracking.uri, tmp_path / "file").resolve("bat")
