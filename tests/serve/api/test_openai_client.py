"""OpenAI's own client, unmodified, against the API."""

import asyncio
import base64
import io

import httpx
import openai
import pytest
from PIL import Image

from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.service import EngineService

BASE = "toy-playground"


@pytest.fixture
def with_client(playground, registry):
    """with_client(do) -> what `await do(client)` returns."""

    def run(do):
        async def ask():
            transport = httpx.ASGITransport(build_app(EngineService(playground, registry)), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport) as http:
                client = openai.AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=http, max_retries=0)
                return await do(client)

        return asyncio.run(ask())

    return run


def picture(item):
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json))).convert("RGB")


def test_a_client_lists_models_and_chooses_an_adapter_by_its_name(with_client):
    async def do(client):
        models = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("dog-rex")
        made = await client.images.generate(
            model="dog-rex", prompt="a photo of <dog-rex> dog", n=2, size="32x32", user="me",
            response_format="b64_json", extra_body={"seed": 5, "steps": 2},
        )  # fmt: skip
        same = await client.images.generate(
            prompt="a photo of <dog-rex> dog", size="32x32",
            extra_body={"seed": 5, "steps": 2, "adapters": [{"name": "dog-rex"}]},
        )  # fmt: skip
        return models, one, made, same

    models, one, made, same = with_client(do)
    assert models[0] == BASE
    assert {"dog-rex", "mug-red"} <= set(models)
    assert (one.id, one.object, one.owned_by) == ("dog-rex", "model", "lorafleet")
    assert [picture(item).size for item in made.data] == [(32, 32)] * 2
    assert picture(made.data[0]).tobytes() == picture(same.data[0]).tobytes()


def test_what_openai_s_models_take_and_this_does_not_is_noted(with_client):
    async def do(client):
        return await client.images.generate(
            model=BASE, prompt="a dog", size="auto", quality="hd", style="vivid", background="auto", moderation="low",
            extra_body={"steps": 1},
        )  # fmt: skip

    made = with_client(do)
    assert made.warnings == ["quality and style and moderation are not used here"]
    assert len(made.data) == 1


def test_links_and_other_formats(with_client):
    async def do(client):
        link = await client.images.generate(
            model="dog-rex", prompt="a photo of <dog-rex> dog", size="32x32", response_format="url",
            extra_body={"seed": 5, "steps": 1},
        )  # fmt: skip
        photo = await client.images.generate(
            model="dog-rex", prompt="a photo of <dog-rex> dog", size="32x32", output_format="jpeg",
            output_compression=80, extra_body={"seed": 5, "steps": 1},
        )  # fmt: skip
        return link, photo, await client.models.list()

    link, photo, listed = with_client(do)
    assert link.data[0].url.startswith("http://test/v1/images/links/")
    assert link.data[0].b64_json is None
    assert Image.open(io.BytesIO(base64.b64decode(photo.data[0].b64_json))).format == "JPEG"
    assert photo.output_format == "jpeg"
    assert not listed.has_more


def test_errors_are_the_client_s_own(with_client):
    async def unknown(client):
        with pytest.raises(openai.NotFoundError, match="is not served: the base is") as told:
            await client.images.generate(model="dall-e-3", prompt="a dog")
        return told.value

    async def wrong(client):
        with pytest.raises(openai.BadRequestError, match="steps") as told:
            await client.images.generate(model=BASE, prompt="a dog", extra_body={"steps": 0})
        return told.value

    assert with_client(unknown).code == "not_found"
    assert with_client(wrong).type == "invalid_request_error"
