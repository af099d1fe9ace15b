"""What a prompt says about adapters: tags that add one, and triggers of adapters that the request does not name."""

from __future__ import annotations

import asyncio
import base64
import io

import httpx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lorafleet.cli import new_app, run
from lorafleet.errors import RequestError
from lorafleet.formats.importing import Import, import_adapter
from lorafleet.home import Home
from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.schemas import AdapterChoice, ImagesRequest, with_tags
from lorafleet_serve.api.service import EngineService
from lorafleet_serve.commands import register
from lorafleet_serve.engine.prompt_tags import LoraTag, check_untagged, read_tags, unnamed_triggers


@pytest.mark.parametrize(
    ("prompt", "plain", "tags"),
    [
        ("a photo of <lora:rex:0.8> dog", "a photo of dog", (LoraTag("rex", 0.8),)),
        ("<lora:rex>, a dog<lora:pixel.art-2:-1.5>", ", a dog", (LoraTag("rex", 1.0), LoraTag("pixel.art-2", -1.5))),
        ("a dog <lyco:rex:.5>", "a dog", (LoraTag("rex", 0.5),)),
        ("two  spaces, <rex> and a < b > c", "two  spaces, <rex> and a < b > c", ()),
        ("<lora:rex:1>", "", (LoraTag("rex", 1.0),)),
    ],
)
def test_tags_are_read_as_a1111_writes_them(prompt, plain, tags):
    assert read_tags(prompt) == (plain, tags)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("<lora:My Dog:1>", r"<lora:My Dog:1>'; an adapter's name is 1 to 64 small letters"),
        ("<lora:>", "an adapter's name is"),
        ("<lora:rex:strong>", "whose scale 'strong' is not one number; write <lora:NAME>"),
        ("<lora:rex:0.8:0.5>", "whose scale '0.8:0.5' is not one number"),
    ],
)
def test_a_tag_that_is_none_is_refused_with_the_form(prompt, says):
    with pytest.raises(RequestError, match=says):
        read_tags(prompt)


def test_a_negative_prompt_names_no_adapters():
    check_untagged(None)
    check_untagged("<rex>, blurry")
    with pytest.raises(RequestError, match=r"negative_prompt holds '<lora:rex:1>'; adapters are named in the prompt"):
        with_tags(ImagesRequest(prompt="a dog", negative_prompt="blurry <lora:rex:1>"))


def test_tags_join_the_adapters_of_a_request():
    asked = ImagesRequest(prompt="a dog <lora:rex:0.5>", adapters=(AdapterChoice(name="hat", version=3),), seed=4)
    tagged = with_tags(asked)
    assert tagged == ImagesRequest(
        prompt="a dog",
        adapters=(AdapterChoice(name="hat", version=3), AdapterChoice(name="rex", scale=0.5)),
        seed=4,
    )
    assert with_tags(tagged) is tagged


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("".join(f"<lora:a{i}:1>" for i in range(5)), "5 adapters in one request; at most 4 are allowed"),
        ("<lora:rex:9>", r"<lora:rex:9> in the prompt: scale is 9\.0; it must be at most 4"),
        ("<lora:rex:nan>", r"scale is nan; it must be a finite number"),
    ],
)
def test_tags_have_the_bounds_of_adapters(prompt, says):
    with pytest.raises(RequestError, match=says):
        with_tags(ImagesRequest(prompt=prompt))


def test_lone_triggers_are_few_and_not_those_named():
    prompt = "<rex> and <rex/TOK2> with <hat>, >_<, <o>_<o>, <a> <b> <c> <d>, <My-Dog>"
    assert unnamed_triggers(prompt, ["hat"]) == ("rex", "o", "a", "b")


def ask(playground, registry, **body):
    """What the API answers to a body."""

    async def send():
        transport = httpx.ASGITransport(build_app(EngineService(playground, registry)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(
                "/v1/images/generations", json={"seed": 3, "steps": 2, "response_format": "b64_json", **body}
            )

    return asyncio.run(send())


def test_a_tag_is_the_adapter_named_otherwise_and_survives_its_own_parameters(playground, registry):
    named = ask(playground, registry, prompt="a <dog-rex> dog", adapters=[{"name": "dog-rex", "scale": 0.5}]).json()
    tagged = ask(playground, registry, prompt="a <dog-rex> dog <lora:dog-rex:0.5>").json()
    assert tagged["data"] == named["data"]
    assert tagged["adapters"] == named["adapters"]
    assert tagged["warnings"] == []
    with Image.open(io.BytesIO(base64.b64decode(tagged["data"][0]["b64_json"]))) as image:
        parameters = image.text["parameters"].splitlines()[0]
    assert parameters == "a <dog-rex> dog <lora:dog-rex:0.5>"
    assert ask(playground, registry, prompt=parameters).json()["data"] == named["data"]
    assert ask(playground, registry, prompt="a dog").json()["data"] != named["data"]


def test_what_a_tag_cannot_mean_is_an_error_over_http(playground, registry):
    twice = ask(playground, registry, prompt="a dog <lora:dog-rex:1>", adapters=[{"name": "dog-rex"}])
    assert (twice.status_code, "named twice" in twice.text) == (400, True)
    nobody = ask(playground, registry, prompt="a dog <lora:nobody:1>")
    assert (nobody.status_code, "nobody" in nobody.text) == (404, True)


def test_a_trigger_of_an_adapter_that_is_not_named_is_noted(playground, registry):
    prompt = "a photo of <mug-red> beside <nobody> and <dog-rex>"
    (note,) = ask(playground, registry, prompt=prompt, adapters=[{"name": "dog-rex"}]).json()["warnings"]
    assert note.startswith("<mug-red> in the prompt is plain text, since the request does not name adapter 'mug-red'; ")
    assert note.endswith("add <lora:mug-red:1> to the prompt, or name it among the adapters")


def test_generate_reads_tags_and_notes_triggers(tmp_path, monkeypatch, capsys, with_mlflow):
    monkeypatch.setenv("LORAFLEET_HOME", str(with_mlflow(tmp_path / "home")))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {f"{layer}.lora_A.weight": torch.ones(1, 96), f"{layer}.lora_B.weight": torch.ones(96, 1)}
    save_file(factors, tmp_path / "rex.safetensors")
    home = Home.from_environment()
    import_adapter(Import(file=tmp_path / "rex.safetensors", name="rex", base="toy-sdxl", words="red"), home)
    app = new_app()
    register(app)

    def generate(prompt, *more):
        command = ["generate", prompt, "--steps", "1", "--seed", "1", "--out", str(tmp_path / "x.png"), *more]
        return run(app, command), capsys.readouterr().err

    code, err = generate("a photo of <rex> and <nobody>", "--base", "toy-sdxl")
    assert (code, err.count("note: ")) == (0, 1)
    assert "note: <rex> in the prompt is plain text" in err
    assert generate("a photo of <rex>", "--adapter", "rex=0.5") == (0, "")
    named = (tmp_path / "x.png").read_bytes()
    assert generate("a photo of <rex> <lora:rex:0.5>") == (0, "")
    assert (tmp_path / "x.png").read_bytes() == named
    code, err = generate("a dog <lora:Rex:0.8>")
    assert (code, "write <lora:NAME> or <lora:NAME:SCALE>" in err) == (2, True)
    assert generate("a dog", "--negative-prompt", "<lora:rex:1>")[0] == 2
