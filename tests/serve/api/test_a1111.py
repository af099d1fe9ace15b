"""What A1111's clients call: webuiapi itself, unmodified, and the bodies of others."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
import webuiapi
from PIL import Image

from lorafleet.config.strict import parse
from lorafleet.errors import RequestError
from lorafleet_serve.api.a1111.txt2img import Txt2Img, to_ours, unused_notes
from lorafleet_serve.api.lists import ModelInfo
from lorafleet_serve.api.schemas import ImagesRequest

BASE = "toy-playground"
COMMON = {
    "id": "sdxl", "created": 0, "prediction": "epsilon", "licence": "", "fingerprint": "values:abc", "resolution": 1024,
    "sizes": (), "default_steps": 30, "default_guidance_scale": 5.0, "default_guidance_scales": {}, "max_clip_skip": 2,
}  # fmt: skip
SDXL = ModelInfo(schedulers=("euler", "euler-ancestral", "dpmpp-2m", "dpmpp-2m-karras", "ddim"), **COMMON)
EDM = ModelInfo(schedulers=("edm-dpmpp-2m", "edm-euler"), **COMMON)


def test_webuiapi_lists_and_makes_images_with_an_adapter(serve):
    address = serve()
    api = webuiapi.WebUIApi(host="127.0.0.1", port=urlsplit(address).port, sampler="EDM Euler", steps=2)
    assert [each["name"] for each in api.get_samplers()] == ["EDM DPM++ 2M", "EDM Euler"]
    assert [each["model_name"] for each in api.get_sd_models()] == [BASE]
    assert "dog-rex" in [each["name"] for each in api.get_loras()]
    assert api.get_options()["sd_model_checkpoint"].startswith(f"{BASE} [")
    assert api.get_progress()["state"]["job_count"] == 0
    wanted = {"seed": 5, "cfg_scale": 3, "width": 32, "height": 32}
    tagged = api.txt2img(prompt="a photo of <dog-rex> <lora:dog-rex:0.8>", batch_size=2, **wanted)
    assert [image.size for image in tagged.images] == [(32, 32)] * 2
    assert tagged.info["all_seeds"] == [5, 6]
    assert tagged.info["infotexts"] == [image.info["parameters"] for image in tagged.images]
    assert "<lora:dog-rex:0.8>" in tagged.info["infotexts"][0]
    assert (tagged.info["sampler_name"], tagged.info["steps"], tagged.info["cfg_scale"]) == ("EDM Euler", 2, 3.0)
    assert tagged.parameters["seed"] == 5
    chosen = api.txt2img(prompt="a photo of <dog-rex>", override_settings={"sd_model_checkpoint": "dog-rex"}, **wanted)
    plain = api.txt2img(prompt="a photo of a dog", **wanted)
    pictures = {each.image.tobytes() for each in (tagged, chosen, plain)}
    assert len(pictures) == 3
    same = api.txt2img(
        prompt="a photo of <dog-rex>",
        override_settings={"sd_model_checkpoint": api.get_sd_models()[0]["title"]},
        alwayson_scripts={}, **{**wanted, "seed": -1},
    )  # fmt: skip
    assert same.info["seed"] != -1
    assert "<lora:" not in same.info["infotexts"][0]


def test_the_images_are_those_of_the_other_route(serve):
    address = serve()
    theirs = httpx.post(f"{address}/sdapi/v1/txt2img", json={
        "prompt": "a <dog-rex> <lora:dog-rex:0.8>", "negative_prompt": "blurry", "seed": 5, "steps": 2, "cfg_scale": 3,
        "width": 48, "height": 32, "sampler_name": "Euler",
    }).json()  # fmt: skip
    ours = httpx.post(f"{address}/v1/images/generations", json={
        "prompt": "a <dog-rex>", "adapters": [{"name": "dog-rex", "scale": 0.8}], "negative_prompt": "blurry",
        "seed": 5, "steps": 2, "guidance_scale": 3, "size": "48x32", "scheduler": "edm-euler",
    }).json()  # fmt: skip
    assert theirs["images"] == [ours["data"][0]["b64_json"]]


def test_what_is_asked_for_in_vain_is_told(serve):
    address = serve()
    body = {"prompt": "a", "steps": 1, "enable_hr": True, "styles": ["x"], "sampler_name": "Euler a"}
    answer = httpx.post(f"{address}/sdapi/v1/txt2img", json=body).json()
    assert answer["warnings"] == [
        f"sampler 'Euler a' does not fit {BASE}; its own, 'EDM DPM++ 2M', was used",
        "enable_hr and styles are not used here",
    ]
    assert json.loads(answer["info"])["sampler_name"] == "EDM DPM++ 2M"
    assert "options are not kept" in httpx.post(f"{address}/sdapi/v1/options", json={"sd_vae": "x"}).text


def test_progress_counts_the_images_that_are_waited_for(serve):
    address = serve()
    long = {"prompt": "a", "steps": 100, "batch_size": 3, "width": 64, "height": 64}

    def waiting():
        return httpx.get(f"{address}/sdapi/v1/progress").json()["state"]["job_count"]

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{address}/sdapi/v1/txt2img", json=long, timeout=120)
        seen = set()
        while not asked.done():
            seen.add(waiting())
    assert seen >= {3}
    assert waiting() == 0


@pytest.mark.parametrize(("body", "says"), [
    ({"batch_size": 4, "n_iter": 4}, "batch_size times n_iter is 16; at most 10"),
    ({"batch_size": 11}, "batch_size is 11; it must be at most 10"),
    ({"sampler_name": "Heun"}, f"sampler_name is 'Heun'; {BASE} has EDM DPM++ 2M, EDM Euler"),
    ({"width": 4096, "height": 32}, "width is 4096; allowed are"),
    ({"width": 32}, "give both sides"),
    ({"cfg_scale": 99}, "guidance_scale is 99"),
    ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
    ({"prompt": "a <lora:nobody:1>"}, "nobody"),
    ({"override_settings": {"sd_model_checkpoint": "v1-5-pruned"}}, "is not served: the base is"),
], ids=str)  # fmt: skip
def test_errors_have_the_one_shape(serve, body, says):
    refused = httpx.post(f"{serve()}/sdapi/v1/txt2img", json={"prompt": "a", "steps": 1, **body})
    assert refused.status_code in (400, 404)
    assert says in refused.json()["error"]["message"]


@pytest.mark.parametrize(("body", "ours"), [
    ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "dpmpp-2m-karras"),
    ({"sampler_name": "DPM++ 2M", "scheduler": "Automatic"}, "dpmpp-2m-karras"),
    ({"sampler_name": "DPM++ 2M"}, "dpmpp-2m"),
    ({"sampler_name": "DPM++ 2M Karras"}, "dpmpp-2m-karras"),
    ({"sampler_index": "Euler a", "scheduler": "Automatic"}, "euler-ancestral"),
    ({"sampler_name": "Automatic"}, None),
    ({}, None),
], ids=str)  # fmt: skip
def test_a_sampler_and_its_schedule(body, ours):
    assert to_ours(parse(Txt2Img, body, "body"), SDXL).scheduler == ours
    assert unused_notes(parse(Txt2Img, body, "body"), SDXL) == ()


def test_an_edm_base_takes_its_own_for_one_that_it_lacks():
    body = parse(Txt2Img, {"sampler_name": "DDIM"}, "body")
    assert to_ours(body, EDM).scheduler is None
    assert unused_notes(body, EDM) == ("sampler 'DDIM' does not fit sdxl; its own, 'EDM DPM++ 2M', was used",)
    with pytest.raises(RequestError, match="Euler a, DPM"):
        to_ours(parse(Txt2Img, {"sampler_name": "UniPC"}, "body"), SDXL)


@pytest.mark.parametrize(("title", "model"), [
    ("sdxl [values:abc]", "sdxl"), ("values:abc", "sdxl"), ("sdxl", "sdxl"), ("rex", "rex"), ("rex@2", "rex@2"),
    ("rex.safetensors [0123]", "rex"), ("", None), (None, None),
])  # fmt: skip
def test_a_checkpoint_s_title_is_a_model(title, model):
    body = Txt2Img(prompt="a", override_settings={"sd_model_checkpoint": title})
    assert to_ours(body, SDXL).model == model


def test_an_empty_body_is_the_base_s_defaults():
    assert to_ours(Txt2Img(), SDXL) == ImagesRequest(prompt="", response_format="b64_json")


@pytest.mark.parametrize("name", ["upscalers", "latent-upscale-modes", "sd-vae", "schedulers", "embeddings", "scripts"])
def test_lists_that_clients_ask_for_are_there(serve, name):
    assert httpx.get(f"{serve()}/sdapi/v1/{name}").status_code == 200


def test_images_are_left_out_where_they_are_not_wanted(serve):
    body = {"prompt": "a", "steps": 1, "send_images": False}
    answer = httpx.post(f"{serve()}/sdapi/v1/txt2img", json=body).json()
    assert answer["images"] == []
    assert json.loads(answer["info"])["infotexts"]


def test_a_picture_s_own_text_makes_it_again(serve):
    address = serve()

    def made(prompt):
        body = {"prompt": prompt, "seed": 5, "steps": 2, "sampler_name": "EDM Euler"}
        return httpx.post(f"{address}/sdapi/v1/txt2img", json=body).json()["images"][0]

    first = made("a <dog-rex> <lora:dog-rex:0.8>")
    text = Image.open(io.BytesIO(base64.b64decode(first))).info["parameters"].splitlines()[0]
    assert made(text) == first
