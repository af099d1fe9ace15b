"""Adapters as models: listed, asked for and worn by clients that can only name a model."""

import asyncio

import httpx
import pytest

from lorafleet.bases import find_base
from lorafleet.bundle.folder_registry import FolderRegistry
from lorafleet.bundle.ports import AdapterVersion
from lorafleet.errors import NotFoundError, UnreachableError
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.model_ids import adapter_models, choice_of, trigger_note, with_model
from lorafleet_serve.api.schemas import ImagesRequest
from lorafleet_serve.api.service import EngineService

URL = "/v1/images/generations"
BASE = "toy-playground"


@pytest.fixture
def ask(playground, registry):
    app = build_app(EngineService(playground, registry))

    def send(method, path, **more):
        async def sent():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(sent())

    return send


def image(ask, **body):
    reply = ask(
        "POST",
        URL,
        json={"prompt": "a photo of <dog-rex> dog", "steps": 2, "seed": 5, "response_format": "b64_json", **body},
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("model", ["dog-rex", "dog-rex@1", "dog-rex@champion", f"{BASE}:dog-rex"])
def test_a_model_is_an_adapter_at_scale_one(ask, model):
    right = image(ask, adapters=[{"name": "dog-rex"}])
    worn = image(ask, model=model)
    assert worn["data"] == right["data"]
    assert [(each["name"], each["version"], each["scale"]) for each in worn["adapters"]] == [("dog-rex", 1, 1.0)]
    assert worn["model"] == BASE
    assert worn["warnings"] == []


def test_other_adapters_and_a_scale_of_its_own_stay(ask):
    both = image(ask, model="dog-rex", adapters=[{"name": "mug-red", "scale": 0.5}])
    assert [each["name"] for each in both["adapters"]] == ["dog-rex", "mug-red"]
    weaker = image(ask, model="dog-rex", adapters=[{"name": "dog-rex", "scale": 0.25}])
    assert [each["scale"] for each in weaker["adapters"]] == [0.25]
    tagged = image(ask, model="dog-rex", prompt="a <dog-rex> dog <lora:dog-rex:0.3>")
    assert [each["scale"] for each in tagged["adapters"]] == [0.3]


def test_who_does_not_name_the_subject_is_told_how(ask):
    (note,) = image(ask, model="dog-rex", prompt="a dog")["warnings"]
    assert note == "the prompt does not name what dog-rex has learned; write <dog-rex>, as in: a photo of <dog-rex>"
    assert image(ask, model="dog-rex", prompt="a photo of TOK")["warnings"] == []
    assert image(ask, model=BASE, prompt="a dog")["warnings"] == []
    assert image(ask, adapters=[{"name": "dog-rex"}], prompt="a dog")["warnings"] == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "dall-e-3",
            "model 'dall-e-3' is not served: the base is 'toy-playground', and adapter 'dall-e-3@champion' is",
        ),
        ("dog-rex@9", "and adapter 'dog-rex@9' is not in"),
        ("Dog Rex", "neither the served base nor the name of an adapter; use 'toy-playground', NAME or NAME@VERSION"),
        ("dog-rex@", "neither the served base"),
    ],
)
def test_a_model_that_is_none_is_404_and_says_what_there_is(ask, model, words):
    for reply in (ask("POST", URL, json={"prompt": "a", "model": model}), ask("GET", f"/v1/models/{model}")):
        assert reply.status_code == 404
        assert words in reply.json()["error"]["message"]
        assert reply.json()["error"]["code"] == "not_found"


def test_models_are_the_base_and_then_the_adapters_on_it(ask, registry):
    data = ask("GET", "/v1/models").json()["data"]
    assert [each["object"] for each in data] == ["model"] * len(data)
    assert data[0]["id"] == BASE
    names = [each["id"] for each in data[1:]]
    assert names == sorted({version.name for version in registry.list() if version.base == BASE})
    rex = next(each for each in data if each["id"] == "dog-rex")
    assert (rex["base"], rex["version"], rex["triggers"], rex["owned_by"]) == (BASE, 1, ["<dog-rex>"], "lorafleet")
    assert ask("GET", "/v1/models/dog-rex").json() == rex
    assert ask("GET", "/v1/models/dog-rex@1").json() == {**rex, "id": "dog-rex@1"}
    assert ask("GET", f"/v1/models/{BASE}").json() == data[0]


def test_versions_of_an_adapter(ask):
    answer = ask("GET", "/v1/adapters/dog-rex").json()
    assert (answer["name"], [each["version"] for each in answer["versions"]]) == ("dog-rex", [1])
    assert ask("GET", "/v1/adapters/nobody").status_code == 404


class Away(FolderRegistry):
    """A folder is always there."""

    def list(self):
        raise UnreachableError("MLflow does not answer")


def test_the_base_is_listed_while_the_registry_is_away(playground, registry):
    service = EngineService(playground, Away(registry.root))
    assert [each.id for each in asyncio.run(service.models()).data] == [BASE]


def version(name, number, *aliases, base=BASE):
    return AdapterVersion(name, number, aliases, base, (f"<{name}>",), None)


def test_a_name_means_its_champion_else_its_newest_version():
    versions = [
        version("a", 3),
        version("a", 2, "champion"),
        version("b", 1),
        version("b", 2),
        version("c", 1, base="x"),
    ]
    assert [(each.id, each.version) for each in adapter_models(versions, find_base(BASE), 0)] == [("a", 2), ("b", 2)]


def test_the_same_again_changes_nothing():
    request = with_model(ImagesRequest(prompt="a", model="rex@2"), BASE)
    assert [(each.name, each.version) for each in request.adapters] == [("rex", "2")]
    assert with_model(request, BASE) == request
    assert trigger_note(request, [version("rex", 2)]).startswith("the prompt does not name what rex has learned")


def test_a_base_whose_name_is_a_hub_id():
    base = "stabilityai/stable-diffusion-xl-base-1.0"
    assert choice_of(f"{base}:rex", base).name == "rex"
    assert with_model(ImagesRequest(prompt="a", model=base), base).adapters == ()
    with pytest.raises(NotFoundError):
        choice_of("another/base", base)
