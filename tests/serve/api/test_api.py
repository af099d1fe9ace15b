"""The HTTP API over a real engine, without Ray."""

import asyncio
import base64
import io
import json
import time

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from lorafleet.bundle.folder_registry import FolderRegistry
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.api.service import EngineService
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.requests import GenerateRequest

URL = "/v1/images/generations"


@pytest.fixture
def ask(playground, registry):
    """ask(method, path, json=...) -> httpx.Response from the application."""
    return asker(EngineService(playground, registry))


def asker(backend, one_app=False):
    kept = build_app(backend) if one_app else None

    def ask(method, path, **kwargs):
        async def send():
            transport = httpx.ASGITransport(kept or build_app(backend), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(send())

    return ask


def picture(item):
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def test_an_image_comes_with_everything_that_made_it(ask):
    body = {
        "prompt": "a photo of <dog-rex> — naïve", "model": "toy-playground", "size": "48x32", "steps": 3, "seed": 11,
        "guidance_scale": 2.5, "scheduler": "edm-euler", "negative_prompt": "blurry", "response_format": "b64_json",
        "adapters": [{"name": "dog-rex", "scale": 0.75}, {"name": "mug-red", "version": 1}],
    }  # fmt: skip
    reply = ask("POST", URL, json=body)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert answer["adapters"] == [
        {"name": "dog-rex", "version": 1, "scale": 0.75, "run_id": "run-dog-rex"},
        {"name": "mug-red", "version": 1, "scale": 1.0, "run_id": "run-mug-red"},
    ]
    assert (answer["seed"], answer["size"], answer["steps"], answer["model"]) == (11, "48x32", 3, "toy-playground")
    assert (answer["guidance_scale"], answer["scheduler"]) == (2.5, "edm-euler")
    assert abs(answer["created"] - time.time()) < 60
    image = picture(answer["data"][0])
    assert image.size == (48, 32)
    lines = image.text["parameters"].splitlines()
    assert lines[0] == "a photo of <dog-rex> — naïve <lora:dog-rex:0.75> <lora:mug-red:1>"
    assert lines[1] == "Negative prompt: blurry"
    assert lines[2].startswith("Steps: 3, Sampler: EDM Euler, CFG scale: 2.5, Seed: 11, Size: 48x32, Model hash: ")
    chunk = json.loads(image.text["lorafleet"])
    assert chunk["adapters"] == answer["adapters"]
    assert chunk["seed"] == 11


def test_several_images_have_consecutive_seeds_and_repeat(ask):
    first = ask("POST", URL, json={"prompt": "a dog", "n": 3, "steps": 2}).json()
    assert [item["seed"] for item in first["data"]] == [first["seed"] + i for i in range(3)]
    again = ask("POST", URL, json={"prompt": "a dog", "steps": 2, "seed": first["seed"] + 2}).json()
    alone, third = (np.asarray(picture(item)).astype(int) for item in (again["data"][0], first["data"][2]))
    assert np.abs(alone - third).max() <= 2  # other batch shapes differ in the last digits
    assert picture(first["data"][0]).tobytes() != picture(first["data"][1]).tobytes()


def test_a_seed_is_drawn_anew_each_time(ask):
    seeds = {ask("POST", URL, json={"prompt": "a", "steps": 1}).json()["seed"] for _ in range(3)}
    assert len(seeds) == 3


@pytest.mark.parametrize(("body", "status", "code", "says"), [
    ({"prompt": "a", "adapters": [{"name": "nobody"}]}, 404, "not_found", "mug-red"),
    ({"prompt": "a", "adapters": [{"name": "dog-rex", "version": 9}]}, 404, "not_found", "dog-rex@9"),
    ({"prompt": "a", "model": "dall-e-3"}, 404, "not_found", "toy-playground"),
    ({"prompt": "a", "stepz": 3}, 400, "bad_request", "did you mean 'steps'?"),
    ({"prompt": "a", "adapters": [{"name": "dog-rex", "weight": 3}]}, 400, "bad_request", "adapters.0.weight"),
    ({}, 400, "bad_request", "'prompt' is missing"),
    ({"prompt": "a", "n": 11}, 400, "bad_request", "n is 11"),
    ({"prompt": "a", "size": "big"}, 400, "bad_request", "1024x1024"),
    ({"prompt": "a", "size": "36x32"}, 400, "bad_request", "multiples of 8"),
    ({"prompt": "a", "size": "99999x99999"}, 400, "bad_request", "allowed are 8 to"),
    ({"prompt": "a", "response_format": "file"}, 400, "bad_request", "b64_json"),
    ({"prompt": "a", "output_format": "gif"}, 400, "bad_request", "webp"),
    ({"prompt": "a", "output_compression": 101}, 400, "bad_request", "at most 100"),
    ({"prompt": "a", "stream": True}, 400, "bad_request", "stream"),
    ({"prompt": "a", "scheduler": "euler"}, 400, "bad_request", "edm-euler"),
    ({"prompt": "a", "seed": -2}, 400, "bad_request", "seed"),
    ({"prompt": "x" * 2001}, 400, "bad_request", "2000"),
    ({"prompt": "a", "adapters": [{"name": "../../etc"}]}, 400, "bad_request", "adapters.0.name"),
    ({"prompt": "a", "adapters": [{"name": "dog-rex"}, {"name": "dog-rex"}]}, 400, "bad_request", "twice"),
    (["a"], 400, "bad_request", "object"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_errors_have_one_shape(ask, body, status, code, says):
    reply = ask("POST", URL, json=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "param", "type"}
    assert (error["code"], error["type"]) == (code, "invalid_request_error")
    assert says in error["message"]
    assert "\n" not in error["message"]


def test_unreadable_bodies_and_unknown_routes_have_it_too(ask):
    assert ask("POST", URL, content=b"{", headers={"content-type": "application/json"}).json()["error"]["code"] == (
        "bad_request"
    )
    assert ask("GET", "/v1/nothing").json()["error"]["code"] == "not_found"
    wrong_verb = ask("GET", URL)
    assert wrong_verb.status_code == 405
    assert wrong_verb.json()["error"]["code"] == "method_not_allowed"


def test_wrong_base_is_a_conflict_and_a_bad_bundle_is_unprocessable(playground, bundle_root, tools, tmp_path):
    ask = asker(EngineService(playground, FolderRegistry(bundle_root / "toy-sdxl")))
    reply = ask("POST", URL, json={"prompt": "a", "adapters": [{"name": "dog-rex"}]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "wrong_base")
    tools["make_bundle"](tmp_path, playground.model.base, "empty", weights={})
    ask = asker(EngineService(playground, FolderRegistry(tmp_path)))
    reply = ask("POST", URL, json={"prompt": "a", "adapters": [{"name": "empty"}]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "bad_bundle")


def test_busy_closing_and_dead(playground, registry):
    engine = StepEngine(playground.model, max_rows=1, max_queue=0)
    ask = asker(EngineService(engine, registry))
    running = engine.submit(GenerateRequest("a", 1, steps=100, width=64, height=64))
    busy = ask("POST", URL, json={"prompt": "a", "steps": 1})
    assert busy.status_code == 429
    assert busy.json()["error"]["type"] == "rate_limit_error"
    assert int(busy.headers["retry-after"]) > 0
    running.cancel()
    engine.close()
    dead = ask("GET", "/readyz")
    assert (dead.status_code, dead.json()["error"]["code"]) == (503, "unreachable")
    assert ask("GET", "/healthz").status_code == 200


def test_a_caller_that_leaves_frees_its_rows(playground, registry):
    engine = StepEngine(playground.model, max_rows=2, max_queue=2)
    service = EngineService(engine, registry)

    async def leave():
        body = ImagesRequest(prompt="a", n=4, steps=100, size="64x64")
        task = asyncio.create_task(service.generate(body))
        while len(engine._running) < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert not engine._open
    engine.close()  # waits for no row


def test_lists(ask):
    adapters = ask("GET", "/v1/adapters").json()["adapters"]
    assert [adapter["name"] for adapter in adapters] == ["dog-rex", "dora", "few-steps", "half", "mug-red", "plain"]
    assert adapters[0] == {
        "name": "dog-rex", "version": 1, "aliases": ["champion"], "base": "toy-playground",
        "triggers": ["<dog-rex>"], "run_id": "run-dog-rex",
    }  # fmt: skip
    models = ask("GET", "/v1/models").json()
    assert models["object"] == "list"
    assert models["data"][0]["id"] == "toy-playground"
    assert models["data"][0]["schedulers"] == ["edm-dpmpp-2m", "edm-euler"]
    assert models["data"][0]["default_guidance_scales"] == {"edm-dpmpp-2m": 4.0, "edm-euler": 4.0}
    assert ask("GET", "/readyz").json() == {"status": "ready"}
    assert URL in ask("GET", "/openapi.json").json()["paths"]


def metrics_of(ask):
    reply = ask("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(reply.text))
    assert all(family.name.startswith("lorafleet_") and family.documentation for family in families)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_metrics_count_images_adapters_and_requests_by_route(playground, registry):
    ask = asker(EngineService(playground, registry, replica="r1"), one_app=True)
    before = metrics_of(ask)
    ask("POST", URL, json={"prompt": "a", "steps": 2, "n": 2, "adapters": [{"name": "plain"}]})
    ask("POST", URL, json={"prompt": "a", "adapters": [{"name": "nobody"}]})
    ask("GET", "/made/up/by/a/client")
    now = metrics_of(ask)
    assert now["lorafleet_images_total", "r1"] - before["lorafleet_images_total", "r1"] == 2
    assert now["lorafleet_steps_total", "r1"] - before["lorafleet_steps_total", "r1"] >= 2
    assert now["lorafleet_rows_running", "r1"] == 0
    assert now["lorafleet_resolver_misses_total", "r1"] == 2
    assert now["lorafleet_resolver_failures_total", "r1"] == 1
    assert now["lorafleet_http_requests_total", URL, "0", "200", "POST"] == 1
    assert now["lorafleet_http_requests_total", URL, "0", "404", "POST"] == 1
    assert now["lorafleet_http_requests_total", "0", "404", "GET", "other"] == 1
    assert now["lorafleet_http_request_seconds_count", URL, "0", "POST"] == 2
