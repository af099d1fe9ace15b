"""A version that is removed from a real registry is served no longer, from no cache, asked for or not."""

import asyncio
import time

import httpx
import pytest

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import CARD
from lorafleet.home import Home
from lorafleet.removal.receipt import Receipt
from lorafleet.removal.versions import remove_versions
from lorafleet.tracking import JobInfo, MlflowRegistry, MlflowTracking
from lorafleet.tracking.removal import MlflowRemoval
from lorafleet_serve.adapters.resolver import Freshness
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.service import EngineService
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.pipeline import Pipeline


@pytest.fixture
def home(tmp_path, with_mlflow):
    return Home(with_mlflow(tmp_path / "home"))


@pytest.fixture
def tracking(home):
    return MlflowTracking(f"sqlite:///{home.root / 'mlflow.db'}", home.artifacts)


@pytest.fixture
def engine():
    made = StepEngine(Pipeline.load(find_base("toy-playground")))
    yield made
    made.close()


@pytest.fixture
def publish(tracking, tools, home, engine):
    """publish(name, letter, here=True): registers a version; with here=False the server has it through its cache."""
    parent = tracking.start_submission("pets", "0" * 16, {}, "name: pets\n")

    def make(name, letter, here=True):
        info = JobInfo(
            name=name, job_id=letter * 16, subject=name, adapter=name, params={}, recipe_yaml="",
            folder="/photos", images=5, dataset_fingerprint="f" * 64,
        )  # fmt: skip
        card = tools["card_for"](engine.model.base, name, 4, (0,)).with_changes(job_id=letter * 16)
        bundle = tools["make_bundle"](home.root / "made", engine.model.base, name, tokens=1, base_card=card)
        bundle = type(bundle)(bundle.path.rename(home.bundles / card.job_id), card)
        run = tracking.start_job(parent, info)
        tracking.log_bundle(run, bundle.path)
        version = tracking.register(bundle, run, "always")
        for tag in () if here else ("artifact_uri", "path"):
            tracking.client.set_model_version_tag(name, str(version.version), tag, "")

    home.bundles.mkdir()
    return make


class Server:
    """A service on an engine, asked over HTTP."""

    def __init__(self, engine, tracking, home):
        registry = MlflowRegistry(tracking.uri, home.adapter_cache)
        self.engine = engine
        self.service = EngineService(engine, registry, Freshness(alias_ttl=3600, refusal_ttl=0))

    def ask(self, name, **choice):
        async def post():
            transport = httpx.ASGITransport(build_app(self.service), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                body = {"prompt": f"<{name}>", "seed": 1, "steps": 1, "adapters": [{"name": name, **choice}]}
                return await client.post("/v1/images/generations", json=body)

        return asyncio.run(post())

    def held(self):
        """Bundles' folders in host memory and on the device."""
        keys = self.engine.host_cache.held(), self.engine.device_cache.held()
        return [{folder for folder, _ in held} for held in keys]


@pytest.fixture
def server(engine, tracking, home):
    made = Server(engine, tracking, home)
    yield made
    made.service.removals.close()
    made.service.resolver.close()


def remove(home, tracking, name, wanted=None):
    mlflow = MlflowRemoval(tracking.uri)
    remove_versions(home, mlflow, mlflow.find(name, wanted), Receipt())


def files(reply):
    """The images of an answer; their links differ from answer to answer."""
    return [image["b64_json"] for image in reply.json()["data"]]


@pytest.mark.parametrize("here", [True, False])
def test_a_removed_version_leaves_host_memory_and_device_and_is_not_found(server, publish, home, tracking, here):
    for name, letter in (("rex", "a"), ("rex", "b"), ("mia", "c")):
        publish(name, letter, here)
    for name, version in (("rex", 1), ("rex", 2), ("mia", 1)):
        assert server.ask(name, version=version).status_code == 200
    assert [len(held) for held in server.held()] == [3, 3]
    kept = files(server.ask("mia"))
    assert server.service.removals.look() == ()
    remove(home, tracking, "rex", "1")
    [gone] = server.service.removals.look()
    assert (gone.name, gone.version) == ("rex", 1)
    assert [len(held) for held in server.held()] == [2, 2]
    assert server.service.held() == {"rex", "mia"}
    reply = server.ask("rex", version=1)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert server.ask("rex", version=2).status_code == 200
    remove(home, tracking, "rex")
    assert [one.version for one in server.service.removals.look()] == [2]
    for choice in ({}, {"version": 2}):
        assert server.ask("rex", **choice).status_code == 404
    assert files(server.ask("mia")) == kept
    assert [len(held) for held in server.held()] == [1, 1]
    assert len(list(home.adapter_cache.glob(f"[!.]*/{CARD}"))) == (0 if here else 1)


def test_a_thread_looks_by_itself_and_nobody_has_to_ask(server, publish, home, tracking, monkeypatch):
    monkeypatch.setattr("lorafleet_serve.api.removed.LEAST_SECONDS", 0.05)
    publish("rex", "a")
    assert server.ask("rex").status_code == 200
    server.service.removals.start(every=0.05)
    remove(home, tracking, "rex")
    deadline = time.monotonic() + 20
    while server.held() != [set(), set()]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.ask("rex").status_code == 404


def test_what_a_request_is_using_stays_until_it_ends(server, publish, home, tracking, engine):
    publish("rex", "a")
    assert server.ask("rex").status_code == 200
    [host] = [future.result() for future in engine.host_cache._held.values()]
    engine.device_cache.lease([host])
    remove(home, tracking, "rex")
    server.service.removals.look()
    assert [len(held) for held in server.held()] == [0, 1]
    engine.device_cache.release([host])
    server.service.removals.look()
    assert server.held() == [set(), set()]


def test_prompts_that_were_encoded_with_its_tokens_are_forgotten(server, publish, home, tracking, engine):
    publish("rex", "a")
    for _ in range(2):
        assert server.ask("rex").status_code == 200
    misses = engine.model.prompt_misses
    assert engine.model._prompts
    remove(home, tracking, "rex")
    server.service.removals.look()
    assert not engine.model._prompts
    assert engine.model.prompt_misses == misses


def test_a_cached_bundle_that_nobody_asked_this_server_for_goes_too(server, publish, home, tracking):
    for name, letter in (("rex", "a"), ("mia", "b")):
        publish(name, letter, here=False)
    other = MlflowRegistry(tracking.uri, home.root / "cache of another machine")
    for name in ("rex", "mia"):
        other.resolve(name)
    remove(home, tracking, "rex")
    other.drop_unregistered()
    assert [path.parent.name for path in (home.root / "cache of another machine").glob(f"[!.]*/{CARD}")] == [
        other.resolve("mia").path.name
    ]
    assert MlflowRegistry(tracking.uri, home.root / "cache of another machine").cache_stats().bytes > 0
