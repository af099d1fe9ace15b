"""POST /v1/images/edits: forms and JSON, pictures within bounds, masks as OpenAI has them, by OpenAI's own client."""

import asyncio
import base64
import hashlib
import io
import json
import pickle
import struct
import zlib

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from lorafleet_serve.api import uploads
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.edit_schemas import EditsRequest
from lorafleet_serve.api.edits import MAX_BODY
from lorafleet_serve.api.service import EngineService
from lorafleet_serve.engine.init_image import InitImage, Picture
from lorafleet_serve.engine.requests import GenerateRequest

URL = "/v1/images/edits"


@pytest.fixture
def app(playground, registry):
    return build_app(EngineService(playground, registry))


@pytest.fixture
def ask(app):
    """ask(**how) posts to the route."""

    def post(url=URL, **how):
        async def send():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post(url, **how)

        return asyncio.run(send())

    return post


def photo(size=(32, 32), mode="RGB"):
    levels = np.random.default_rng(1).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def erased(size=(32, 32)):
    """A mask as OpenAI's users make one: the picture with its right half erased."""
    image = photo(size, "RGBA")
    image.paste((0, 0, 0, 0), (size[0] // 2, 0, *size))
    return image


def file(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def coded(data):
    return base64.b64encode(data).decode()


def pixels(item):
    return np.asarray(opened(item)).astype(int)


def opened(item):
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


PHOTO = file(photo())
BODY = {"prompt": "a dog", "seed": 5, "steps": 4, "size": "32x32"}


def test_openai_s_client_edits_with_a_mask_and_an_adapter(app, playground, use):
    async def edit():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url="http://test/v1", http_client=http, max_retries=0)
            return await client.images.edit(
                image=("dog.png", PHOTO), mask=("mask.png", file(erased())), model="dog-rex", n=2, size="32x32",
                prompt="a photo of <dog-rex>", response_format="b64_json", user="me", input_fidelity="high",
                extra_body={"seed": 7, "steps": 3},
            )  # fmt: skip

    made = asyncio.run(edit())
    init = InitImage.of(Picture.of(photo()), (32, 32), 1.0, Picture.of(erased()))
    assert set(np.frombuffer(init.mask, np.uint8).reshape(32, 32)[:, 15:17].flatten()) == {0, 255}
    for i, item in enumerate(made.data):
        request = GenerateRequest(
            "a photo of <dog-rex>", 7 + i, steps=3, adapters=(use(playground, "dog-rex"),), init=init
        )
        alone = np.asarray(playground.submit(request).result(60).image).astype(int)
        assert np.abs(pixels(item.model_dump()) - alone).max() <= 2
    assert made.notes == ["input_fidelity is not used here"]


def test_a_form_and_json_under_either_name_are_one(ask):
    mask = file(erased())
    form = {**BODY, "strength": "0.75", "adapters": '[{"name": "plain", "scale": 0.5}]', "negative_prompt": ""}
    replies = [
        ask(data=form, files={"image[]": ("a.png", PHOTO), "mask": ("b.png", mask)}),
        ask(json={
            **BODY, "strength": 0.75, "negative_prompt": "", "prompt": "a dog <lora:plain:0.5>",
            "init_image": "data:image/png;base64," + coded(PHOTO), "mask_image": coded(mask),
        }),
    ]  # fmt: skip
    for reply in replies:
        assert reply.status_code == 200, reply.text
    one, other = (reply.json() for reply in replies)
    assert one["data"] == other["data"]
    assert one["adapters"] == other["adapters"] == [
        {"name": "plain", "version": 1, "scale": 0.5, "run_id": "run-plain"}
    ]  # fmt: skip


def test_an_image_says_what_it_was_begun_from(ask):
    mask = file(erased())
    made = opened(ask(json={**BODY, "image": coded(PHOTO), "mask": coded(mask), "strength": 0.5}).json()["data"][0])
    chunk = json.loads(made.text["lorafleet"])
    assert chunk["init_image_sha256"] == hashlib.sha256(PHOTO).hexdigest()
    assert chunk["mask_sha256"] == hashlib.sha256(mask).hexdigest()
    assert chunk["strength"] == 0.5
    assert "Denoising strength: 0.5, " in made.text["parameters"]
    plain = json.loads(opened(ask("/v1/images/generations", json=BODY).json()["data"][0]).text["lorafleet"])
    assert not {"init_image_sha256", "mask_sha256", "strength"} & set(plain)


def test_strength_is_0_6_of_a_picture_and_1_of_a_mask_s(ask):
    def strength(**pictures):
        made = ask(json={**BODY, **{name: coded(file(image)) for name, image in pictures.items()}})
        return json.loads(opened(made.json()["data"][0]).text["lorafleet"])["strength"]

    assert strength(image=photo()) == 0.6
    assert strength(image=photo(), mask=erased()) == 1.0
    assert strength(image=erased()) == 1.0, "its own transparency is the mask"


def test_what_is_opaque_or_black_stays(ask):
    """The left half by each of three masks; seeds differ on the right."""
    white = Image.new("L", (32, 32))
    white.paste(255, (16, 0, 32, 32))
    for pictures in ({"mask": erased()}, {"mask": white}, {"image": erased()}):
        body = {"image": coded(PHOTO), **{name: coded(file(image)) for name, image in pictures.items()}}
        one, other = (pixels(ask(json={**BODY, **body, "seed": seed}).json()["data"][0]) for seed in (1, 2))
        difference = np.abs(one - other).mean(axis=(0, 2))
        assert difference[:12].mean() * 3 < difference[20:].mean()


@pytest.mark.parametrize(("size", "asked", "made"), [
    ((64, 64), None, (32, 32)),
    ((300, 200), "auto", (40, 24)),
    ((300, 200), "32x48", (32, 48)),
])  # fmt: skip
def test_a_picture_of_any_size_is_fitted(ask, size, asked, made):
    reply = ask(json={**BODY, "size": asked, "image": coded(file(photo(size), "JPEG"))}).json()
    assert opened(reply["data"][0]).size == made
    assert reply["size"] == f"{made[0]}x{made[1]}"


def test_a_photo_is_turned_the_right_way_up(ask):
    turned = photo((48, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "WEBP"):
        read = uploads.read_picture(file(turned, kind, exif=exif), "image").colours
        assert read.size == (32, 48)


def bomb(side):
    """A PNG of a few hundred bytes that says it has side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GIF, DEEP = file(photo(), "GIF"), file(Image.new("I;16", (8, 8)))
SMALL_MASK = file(Image.new("L", (16, 16), 255))


@pytest.mark.parametrize(("changes", "says"), [
    ({"image": None}, "image is null"),
    ({"image": "https://example.com/dog.png"}, "nothing is fetched; send the file itself"),
    ({"image": "file:///etc/passwd"}, "nothing is fetched"),
    ({"image": "not base64!"}, "this is no base64"),
    ({"image": ""}, "image is empty"),
    ({"image": coded(b"hello")}, "image is no PNG, JPEG or WebP"),
    ({"image": coded(GIF)}, "image is no PNG, JPEG or WebP"),
    ({"image": coded(DEEP)}, "16 bits a pixel; save it with 8"),
    ({"image": coded(PHOTO[:-30])}, "image is damaged or cut short"),
    ({"image": coded(bomb(5001))}, "image has 5001 x 5001 pixels; allowed are 25 megapixels"),
    ({"image": coded(bomb(60_000))}, "too many pixels"),
    ({"image": coded(bytes(uploads.MAX_BYTES + 1))}, "allowed are 20"),
    ({"image": "A" * (uploads.MAX_BYTES * 3 // 2)}, "allowed are 20"),
    ({"mask": coded(SMALL_MASK)}, "the mask has 16 x 16 pixels and the picture 32 x 32 pixels"),
    ({"mask": coded(b"x")}, "mask is no PNG"),
    ({"init_image": coded(PHOTO)}, "init_image is another name of image"),
    ({"strength": 0}, "strength is 0"),
    ({"strength": 1.5}, "strength is 1.5"),
    ({"strength": 0.2}, "strength is 0.2, which leaves none of 4 steps"),
    ({"size": "16384x16384"}, "width is 16384; allowed are 8 to 64"),
    ({"size": "36x32"}, "multiples of 8"),
    ({"stepz": 3}, "did you mean 'steps'?"),
    ({"n": 11}, "n is 11"),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(ask, changes, says):
    reply = ask(json={**BODY, "image": coded(PHOTO), **changes})
    assert reply.status_code == 422, reply.text[:300]
    error = reply.json()["error"]
    assert error["code"] == "bad_request"
    assert says in error["message"]
    assert len(error["message"]) < 300
    assert "\n" not in error["message"]


@pytest.mark.parametrize(("how", "says"), [
    ({"json": ["a"]}, "send an object"),
    ({"json": BODY}, "'image' is missing"),
    ({"content": b"{"}, "send a form, multipart/form-data, or application/json"),
    ({"content": b"{", "headers": {"content-type": "application/json"}}, "not valid JSON"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "the form cannot be read"),
    ({"data": {**BODY, "adapters": "plain"}, "files": {"image": PHOTO}}, 'write it so: [{"name": "dog-rex"'),
    ({"data": BODY, "files": [("image[]", PHOTO), ("image[]", PHOTO)]}, "one picture is edited at a time"),
    ({"data": BODY, "files": {"image": bytes(uploads.MAX_BYTES + 1)}}, "allowed are 20"),
    ({"data": BODY, "files": {"image": bytes(MAX_BODY)}}, "the body is larger than 60 MiB"),
    ({"json": {**BODY, "image": "A" * MAX_BODY}}, "the body is larger than 60 MiB"),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_bodies_that_are_none_are_refused_too(ask, how, says):
    reply = ask(**how)
    assert reply.status_code == 422, reply.text[:300]
    assert says in reply.json()["error"]["message"]


def test_an_unknown_adapter_is_not_found(ask):
    reply = ask(data={**BODY, "model": "nobody"}, files={"image": PHOTO})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_a_request_travels_to_a_replica_as_it_is():
    request = EditsRequest(prompt="a", init_image=coded(PHOTO), mask=PHOTO)
    assert request.image == request.mask == PHOTO
    assert pickle.loads(pickle.dumps(request)) == request
    assert request.with_changes(prompt="b").image == PHOTO


def test_the_documentation_has_both_bodies(app):
    document = app.openapi()
    content = document["paths"][URL]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    for body in content.values():
        assert {"prompt", "image"} <= set(body["schema"]["required"])
        assert "never a URL" in body["schema"]["properties"]["image"]["description"]
        text = json.dumps(body["schema"])
        for name in ("AdapterChoice",):
            assert f"#/components/schemas/{name}" in text
            assert name in document["components"]["schemas"]
