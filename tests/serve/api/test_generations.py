"""What OpenAI's fields do, links, usual models, triggers that wear their adapter, and bodies of any content type."""

import base64
import io
import subprocess

import httpx
import pytest
from PIL import Image

from lorafleet.bundle.folder_registry import FolderRegistry
from lorafleet_serve.api.words.json_bodies import JsonByDefault

BASE = "toy-playground"
REX = "a photo of <dog-rex>"


def post(address, path="/v1/images/generations", **body):
    return httpx.post(address + path, json={"prompt": "a dog", "steps": 1, "seed": 3, **body}, timeout=60)


def test_an_answer_has_a_file_a_link_or_both(serve):
    address = serve()
    both, file, link = (post(address, response_format=form).json()["data"][0] for form in (None, "b64_json", "url"))
    assert [set(each) for each in (both, file, link)] == [
        {"b64_json", "url", "seed"},
        {"b64_json", "seed"},
        {"url", "seed"},
    ]
    assert both["b64_json"] == file["b64_json"]
    for each in (both, link):
        assert each["url"].startswith(f"{address}/v1/images/links/")
        assert each["url"].endswith(".png")
        served = httpx.get(each["url"])
        assert served.content == base64.b64decode(file["b64_json"])
        assert served.headers["content-type"] == "image/png"
        head = httpx.head(each["url"])
        assert (head.status_code, head.content, int(head.headers["content-length"])) == (200, b"", len(served.content))
    assert both["url"] != link["url"]
    gone = httpx.get(f"{address}/v1/images/links/{'0' * 64}.png")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")
    assert "links last 10 minutes" in gone.json()["error"]["message"]


def test_the_documentation_shows_an_answer_s_keys(serve):
    schema = httpx.get(f"{serve()}/openapi.json").json()["components"]["schemas"]["ImageData"]
    assert set(schema["properties"]) == {"b64_json", "url", "seed"}
    assert all("description" in schema["properties"][name] for name in ("b64_json", "url"))


@pytest.mark.parametrize(("form", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("jpg", "JPEG"), ("png", "PNG")])
def test_output_formats(serve, form, kind):
    reply = post(serve(), output_format=form, output_compression=40).json()
    (image,) = reply["data"]
    assert Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).format == kind
    assert reply["output_format"] == kind.lower()
    served = httpx.get(image["url"])
    assert served.headers["content-type"] == f"image/{kind.lower()}"
    assert image["url"].endswith(f".{kind.lower()}")
    assert reply["warnings"] == (
        ["output_compression is not used for a PNG; ask for output_format jpeg or webp"] if kind == "PNG" else []
    )


def test_usual_models_mean_the_base_only_where_the_server_is_told(serve):
    strict, lenient = serve(), serve(accept_any_model=True)
    for model in ("dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1.5", "gpt-image-1-mini", "openai/dall-e-3"):
        refused = post(strict, model=model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert BASE in refused.json()["error"]["message"]
        made = post(lenient, model=model).json()
        assert made["model"] == BASE
        assert made["warnings"] == [f"model {model!r} is not served; the base, {BASE!r}, stands in for it"]
        assert ("url" in made["data"][0]) == ("gpt-image" not in model)
    typo = post(lenient, model="dog-rx")
    assert typo.status_code == 404
    assert "dog-rex" in typo.json()["error"]["message"], "what there is"
    assert [each["name"] for each in post(lenient, model="dog-rex").json()["adapters"]] == ["dog-rex"]


def test_a_trigger_wears_its_adapter_only_where_the_server_is_told(serve):
    plain, auto = serve(), serve(auto_adapters=True)
    wanted = post(plain, prompt=REX, adapters=[{"name": "dog-rex"}]).json()
    worn, noted = post(auto, prompt=REX).json(), post(plain, prompt=REX).json()
    assert worn["data"][0]["b64_json"] == wanted["data"][0]["b64_json"] != noted["data"][0]["b64_json"]
    assert worn["adapters"] == wanted["adapters"]
    assert worn["warnings"] == ["adapter 'dog-rex' was added at scale 1, because <dog-rex> is in the prompt"]
    assert noted["warnings"][0].startswith("<dog-rex> in the prompt is plain text")
    both = post(auto, prompt=f"{REX} beside <mug-red> and <nobody> <lora:mug-red:0.5>").json()
    assert [(each["name"], each["scale"]) for each in both["adapters"]] == [("mug-red", 0.5), ("dog-rex", 1.0)]


def test_a_trigger_of_another_base_s_adapter_stays_text(serve, bundle_root):
    address = serve(auto_adapters=True, registry=FolderRegistry(bundle_root / "toy-sdxl"))
    made = post(address, prompt=REX).json()
    assert made["adapters"] == []
    assert made["warnings"][0].startswith("<dog-rex> in the prompt is plain text")


def test_a_wrong_field_is_named(serve):
    address = serve()
    for body, param in (
        ({"steps": 0}, "steps"),
        ({"stepz": 1}, "stepz"),
        ({"adapters": [{"nam": "x"}]}, "adapters.0.nam"),
    ):
        error = post(address, **body).json()["error"]
        assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert post(address, prompt="a <lora:x:y>").json()["error"]["param"] is None


def test_a_wrong_base_is_not_asked_for_thrice(serve, bundle_root):
    address = serve(registry=FolderRegistry(bundle_root / "toy-sdxl"))
    refused = post(address, adapters=[{"name": "dog-rex"}])
    assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")


def curl(*arguments):
    done = subprocess.run(["curl", "-sS", *arguments], stdout=subprocess.PIPE, check=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize("more", [
    (), ("-H", "Content-Type: application/json"), ("-H", "Content-Type:"), ("-H", "Content-Type: text/plain"),
], ids=str)  # fmt: skip
def test_curl_as_people_type_it(serve, more):
    body = '{"prompt": "a photo of <dog-rex>", "model": "dog-rex", "steps": 1, "seed": 3}'
    answer = httpx.Response(200, content=curl(f"{serve()}/v1/images/generations", *more, "-d", body)).json()
    assert [each["name"] for each in answer["adapters"]] == ["dog-rex"]


def test_curl_fetches_the_link(serve, tmp_path):
    answer = curl(f"{serve()}/v1/images/generations", "-d", '{"prompt": "a dog", "steps": 1, "response_format": "url"}')
    url = httpx.Response(200, content=answer).json()["data"][0]["url"]
    curl(url, "-o", str(tmp_path / "dog.png"))
    assert Image.open(tmp_path / "dog.png").size == (32, 32)


def test_a_form_is_refused_in_words_and_a_browser_s_form_is_not_read(serve):
    url = f"{serve()}/v1/images/generations"
    error = httpx.Response(200, content=curl(url, "-d", "prompt=a dog")).json()["error"]
    assert error["message"] == "the body is not valid JSON; send an object with at least a prompt"
    other_site = ("-H", "Origin: http://elsewhere", "-H", "Content-Type: text/plain")
    assert b"bad_request" in curl(url, *other_site, "-d", '{"prompt": "a dog", "steps": 1}')


@pytest.mark.parametrize(("method", "kind", "becomes"), [
    ("POST", b"", b"application/json"),
    ("POST", b"application/x-www-form-urlencoded; charset=utf-8", b"application/json"),
    ("POST", b"multipart/form-data; boundary=x", b"multipart/form-data; boundary=x"),
    ("POST", b"application/json", b"application/json"),
    ("PUT", b"text/plain", b"text/plain"),
])  # fmt: skip
def test_what_else_is_json(method, kind, becomes):
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope["headers"]))

    scope = {"type": "http", "method": method, "headers": [(b"host", b"x"), (b"content-type", kind)]}
    with pytest.raises(StopIteration):
        JsonByDefault(app)(scope, None, None).send(None)
    assert seen == [{b"host": b"x", b"content-type": becomes}]
