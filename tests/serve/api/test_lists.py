"""Pages and searches of models and adapters, and adapters on a base that is called otherwise."""

import asyncio
from dataclasses import replace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.bases import find_base
from lorafleet.bundle.folder_registry import FolderRegistry
from lorafleet.bundle.ports import AdapterVersion
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.lists import Page, adapter_page, model_page
from lorafleet_serve.api.model_ids import adapter_model, adapter_models, base_model, is_on
from lorafleet_serve.api.service import EngineService

BASE = find_base("toy-playground")
NAMES = st.sets(st.text("ab0-", min_size=1, max_size=4), max_size=12)


def version(name, number=1, base=BASE.name, fingerprint=""):
    return AdapterVersion(name, number, ("champion",), base, (f"<{name}>",), None, base_fingerprint=fingerprint)


def pages(page_of, limit, last):
    """All that following pages give."""
    after, found = None, []
    while True:
        items, has_more = page_of(Page(limit, after))
        assert len(items) <= limit
        found += items
        if not has_more:
            return found
        after = last(items[-1])


@given(NAMES, st.integers(1, 5), st.integers(1, 3))
def test_pages_are_the_whole_list_each_item_once(names, limit, versions):
    registered = [version(name, number) for name in names for number in range(1, versions + 1)]
    base = base_model(BASE, ("edm-euler",), 0)
    models = adapter_models(registered, BASE, 0)

    def page_of_models(page):
        answer = model_page(base, models, page)
        return answer.data, answer.has_more

    def page_of_adapters(page):
        answer = adapter_page(registered, page)
        return answer.adapters, answer.has_more

    assert [each.id for each in pages(page_of_models, limit, lambda each: each.id)] == [BASE.name, *sorted(names)]
    listed = pages(page_of_adapters, limit, lambda each: f"{each.name}@{each.version}")
    newest_first = [(name, number) for name in sorted(names) for number in range(versions, 0, -1)]
    assert [(each.name, each.version) for each in listed] == newest_first


def test_a_page_goes_on_behind_one_that_is_gone_and_behind_a_name():
    registered = [version("a"), version("c", 1), version("c", 2), version("d")]
    assert [each.name for each in adapter_page(registered, Page(after="b@3")).adapters] == ["c", "c", "d"]
    assert [each.version for each in adapter_page(registered, Page(after="c@2")).adapters] == [1, 1]
    assert [each.name for each in adapter_page(registered, Page(after="c")).adapters] == ["d"]


def test_a_search_finds_names_and_triggers():
    registered = [version("dog-rex"), replace(version("cat"), triggers=("<Rexine>",)), version("mug")]
    base = base_model(BASE, ("edm-euler",), 0)
    models = [adapter_model(each, None, 0) for each in registered]
    assert [each.name for each in adapter_page(registered, Page(search="REX")).adapters] == ["cat", "dog-rex"]
    assert [each.id for each in model_page(base, models, Page(search="rex")).data] == ["dog-rex", "cat"]
    assert [each.id for each in model_page(base, models, Page(search="playground")).data] == [BASE.name]


def test_an_adapter_is_on_the_same_weights_whatever_they_are_called():
    assert is_on(version("a", base="my-own-name", fingerprint=BASE.fingerprint), BASE)
    assert not is_on(version("a", fingerprint="values:0000000000000000"), BASE)
    assert is_on(version("a"), BASE), "without a fingerprint the name decides"


def test_models_of_a_renamed_base_are_listed_and_worn(playground, tools, tmp_path):
    card = tools["card_for"](BASE, "rex", 4).with_changes(base="what-it-was-called")
    tools["make_bundle"](tmp_path, BASE, "rex", base_card=card)
    app = build_app(EngineService(playground, FolderRegistry(tmp_path)))

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            models = await client.get("/v1/models")
            body = {"prompt": "a <rex>", "model": "rex", "steps": 1}
            return models.json(), (await client.post("/v1/images/generations", json=body)).json()

    models, made = asyncio.run(ask())
    assert [each["id"] for each in models["data"]] == [BASE.name, "rex"]
    assert [each["name"] for each in made["adapters"]] == ["rex"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/adapters"])
def test_pages_over_http(serve, path):
    address, key = serve(), "data" if path == "/v1/models" else "adapters"
    one = httpx.get(address + path, params={"limit": 1}).json()
    assert (len(one[key]), one["has_more"]) == (1, True)
    found = httpx.get(address + path, params={"search": "MUG"}).json()
    assert ([each.get("id", each.get("name")) for each in found[key]], found["has_more"]) == (["mug-red"], False)
    for limit in ("0", "1001", "many"):
        refused = httpx.get(address + path, params={"limit": limit})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limit")
        assert refused.json()["error"]["message"].startswith(f"limit is '{limit}'; should be ")
