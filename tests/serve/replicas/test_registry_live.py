"""A running service and its registry: promotions arrive, bundles come and go, and an outage is survived or named."""

import asyncio
import shutil
import socket

import httpx
import pytest

from lorafleet.bundle.bundle import WEIGHTS
from lorafleet.bundle.folder_registry import FolderRegistry
from lorafleet.tracking import JobInfo, MlflowRegistry, MlflowTracking
from lorafleet_serve.adapters.resolver import Freshness
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.service import EngineService

URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory, with_mlflow):
    home = with_mlflow(tmp_path_factory.mktemp("live home"))
    return MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")


@pytest.fixture
def publish(tracking, tools, playground, tmp_path):
    """publish(name, job): another version of an adapter, which this machine has only through MLflow."""
    parent = tracking.start_submission("pets", "0" * 16, {}, "name: pets\n")

    def make(name, job):
        info = JobInfo(
            name=name, job_id=job, subject=name, adapter=name, params={}, recipe_yaml="",
            folder="/photos", images=5, dataset_fingerprint="f" * 64,
        )  # fmt: skip
        card = tools["card_for"](playground.model.base, name, 4, (0,)).with_changes(job_id=job)
        bundle = tools["make_bundle"](tmp_path / job, playground.model.base, name, tokens=1, base_card=card)
        run = tracking.start_job(parent, info)
        tracking.log_bundle(run, bundle.path)
        version = tracking.register(bundle, run, "always")
        for tag in ("artifact_uri", "path"):
            tracking.client.set_model_version_tag(name, str(version.version), tag, "")
        return run

    return make


@pytest.fixture
def registry(tracking, tmp_path):
    return MlflowRegistry(tracking.uri, tmp_path / "cache")


@pytest.fixture
def ask(playground, registry):
    """ask(name) -> the reply for an image with that adapter; every request asks the registry for its alias."""
    service = EngineService(playground, registry, Freshness(alias_ttl=0, refusal_ttl=0))

    def send(name, **choice):
        async def post():
            transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                body = {"prompt": f"<{name}>", "seed": 1, "steps": 1, "adapters": [{"name": name, **choice}]}
                return await client.post(URL, json=body)

        return asyncio.run(post())

    yield send
    service.resolver.close()


def version_used(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["adapters"][0]["version"]


def test_a_promotion_reaches_the_next_request(ask, publish, tracking):
    publish("rex", "a" * 16)
    assert version_used(ask("rex")) == 1
    publish("rex", "b" * 16)
    assert version_used(ask("rex")) == 2
    assert version_used(ask("rex", version=1)) == 1
    tracking.client.set_registered_model_alias("rex", "champion", "1")
    assert version_used(ask("rex")) == 1
    tracking.client.set_registered_model_alias("rex", "best", "2")
    assert version_used(ask("rex", version="best")) == 2


def test_an_outage_leaves_what_was_known_and_is_named_for_the_rest(ask, publish, registry):
    publish("tom", "c" * 16)
    assert version_used(ask("tom")) == 1
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        registry.uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert version_used(ask("tom")) == 1
        assert version_used(ask("tom")) == 1
        unknown = ask("mia")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (503, "unreachable")
    assert int(unknown.headers["retry-after"]) >= 1
    assert "MLflow at http://127.0.0.1" in unknown.json()["error"]["message"]


def test_a_bundle_that_is_dropped_or_damaged_on_disk_is_fetched_again(ask, publish, registry):
    publish("cat", "d" * 16)
    assert version_used(ask("cat", version=1)) == 1
    path = registry.resolve("cat").path
    shutil.rmtree(path)
    assert version_used(ask("cat", version=1)) == 1
    assert registry.cache_stats().misses == 2
    (path / WEIGHTS).write_bytes(b"garbage")
    (path / "adapter.json").touch()  # the engine reads it as another bundle
    assert ask("cat", version=1).json()["error"]["code"] == "bad_bundle"
    assert version_used(ask("cat", version=1)) == 1
    assert registry.cache_stats().damaged == 1


def test_a_bundle_that_is_gone_everywhere_is_not_found(ask, publish, tracking):
    run = publish("dog", "e" * 16)
    shutil.rmtree(tracking.client.get_run(run).info.artifact_uri.removeprefix("file://").replace("%20", " "))
    gone = ask("dog")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    assert "is gone" in gone.json()["error"]["message"]


def test_a_folder_of_bundles_that_vanishes_is_not_found(playground, bundle_root, tmp_path):
    shutil.copytree(bundle_root / "toy-playground" / "plain", tmp_path / "plain")
    service = EngineService(playground, FolderRegistry(tmp_path))
    found = service.resolver.find("plain").result(10)
    shutil.rmtree(tmp_path / "plain")
    with service.registry.hold(found) as there:
        assert not there
    service.resolver.close()
