"""Bodies as clients send them that are not in Python: what their public sources build, with an adapter chosen.

Sizes are the toy base's; all else is theirs.
"""

import httpx
import pytest

from lorafleet_serve.api.schemas import ImagesRequest

BASE = "toy-playground"
GENERATIONS = {
    "Open WebUI": {
        "model": "dog-rex", "prompt": "a photo of <dog-rex>", "n": 1, "size": "32x32", "response_format": "b64_json",
    },
    "Open WebUI, its usual model": {
        "model": "gpt-image-1", "prompt": "<dog-rex> <lora:dog-rex:1>", "n": 1, "size": "auto",
    },
    "LibreChat, DALL-E 3": {
        "model": "dall-e-3", "quality": "standard", "style": "vivid", "size": "32x32", "n": 1,
        "prompt": "a <dog-rex> <lora:dog-rex:1>",
    },
    "LibreChat, its image tool": {
        "model": "gpt-image-1", "prompt": "a <dog-rex> <lora:dog-rex:1>", "n": 1, "background": "auto",
        "output_format": "webp", "output_compression": 100, "quality": "auto", "size": "auto",
    },
    "n8n": {
        "prompt": "a <dog-rex>", "model": "dog-rex", "response_format": "b64_json", "quality": "hd", "size": "32x32",
        "style": "natural",
    },
    "n8n, links": {"prompt": "a <dog-rex>", "model": "dog-rex", "response_format": "url"},
    "Vercel AI SDK, openai": {
        "model": "dog-rex", "prompt": "a <dog-rex>", "n": 2, "size": "32x32", "response_format": "b64_json",
    },
    "Vercel AI SDK, openai-compatible with options": {
        "model": BASE, "prompt": "a <dog-rex>", "n": 1, "size": "32x32", "adapters": [{"name": "dog-rex"}],
        "response_format": "b64_json",
    },
    "fal": {
        "prompt": "a <dog-rex>", "loras": [{"path": "dog-rex", "scale": 1}], "num_inference_steps": 2, "num_images": 1,
        "image_size": {"width": 32, "height": 32}, "guidance_scale": 3.5,
    },
    "Replicate": {
        "prompt": "a <dog-rex>", "width": 32, "height": 32, "num_outputs": 1, "scheduler": "K_EULER", "seed": 3,
        "num_inference_steps": 2, "guidance_scale": 7.5, "negative_prompt": "", "loras": ["dog-rex"], "lora_scale": 0.6,
    },
}  # fmt: skip
TXT2IMG = {
    "Open WebUI": {
        "prompt": "a <dog-rex> <lora:dog-rex:0.8>", "batch_size": 1, "width": 32, "height": 32, "steps": 2,
        "negative_prompt": "blurry", "cfg_scale": 4.0, "sampler_name": "Euler a", "scheduler": "automatic",
    },
    "SillyTavern": {
        "prompt": "a <dog-rex> <lora:dog-rex:1>", "negative_prompt": "lowres", "sampler_name": "DDIM",
        "scheduler": "normal", "steps": 2, "cfg_scale": 7, "width": 32, "height": 32, "restore_faces": False,
        "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 1, "hr_second_pass_steps": 0,
        "denoising_strength": 0.7, "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
        "seed": 7, "clip_skip": 1, "override_settings_restore_afterwards": True, "save_images": True,
        "send_images": True, "do_not_save_grid": False, "do_not_save_samples": False,
    },
    "LibreChat": {
        "prompt": "a <dog-rex> <lora:dog-rex:1>", "negative_prompt": "drawing", "cfg_scale": 4.5, "steps": 2,
        "width": 32, "height": 32,
    },
}  # fmt: skip


@pytest.mark.parametrize("client", GENERATIONS)
def test_generations(serve, client):
    body = GENERATIONS[client]
    answer = httpx.post(f"{serve(accept_any_model=True)}/v1/images/generations", json={"steps": 2, **body} if
        "num_inference_steps" not in body else body, timeout=60)  # fmt: skip
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert [each["name"] for each in made["adapters"]] == ["dog-rex"]
    assert made["size"] == "32x32"
    assert len(made["data"]) == body.get("n", 1)
    for image in made["data"]:
        if body.get("response_format") != "url":
            assert image["b64_json"]
        if body.get("response_format") == "url" or client == "LibreChat, DALL-E 3":
            assert httpx.get(image["url"]).status_code == 200


@pytest.mark.parametrize("client", TXT2IMG)
def test_txt2img(serve, client):
    """Also the calls that the client makes before."""
    address = serve()
    options = httpx.get(f"{address}/sdapi/v1/options").json()
    titles = [each["title"] for each in httpx.get(f"{address}/sdapi/v1/sd-models").json()]
    assert options["sd_model_checkpoint"] in titles
    assert "forge_preset" not in options
    assert httpx.post(f"{address}/sdapi/v1/options", json={**options, "sd_model_checkpoint": titles[0]}).is_success
    assert httpx.get(f"{address}/sdapi/v1/progress").json()["state"]["job_count"] == 0
    answer = httpx.post(f"{address}/sdapi/v1/txt2img", json=TXT2IMG[client], timeout=60)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"]) == 1
    assert "<lora:dog-rex:" in answer.json()["info"]


def test_replicate_s_scale_reaches_the_adapter():
    request = ImagesRequest.model_validate(GENERATIONS["Replicate"])
    assert [(each.name, each.scale) for each in request.adapters] == [("dog-rex", 0.6)]
