"""LangChain and LiteLLM, unmodified, each choosing an adapter.

They need other versions of what lorafleet stands on, so they run in an environment of their own:

    python -m venv clients && clients/bin/pip install langchain-community openai litellm
    LORAFLEET_CLIENTS=clients/bin/python python -m pytest -m slow tests/serve/api/test_clients.py
"""

import base64
import io
import json
import os
import subprocess
import sys

import httpx
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("LORAFLEET_CLIENTS", sys.executable)

LANGCHAIN = """
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
rex = DallEAPIWrapper(model="dog-rex", size="32x32", n=2, base_url=address, api_key="none")
usual = DallEAPIWrapper(size="32x32", base_url=address, api_key="none")
answer = [*rex.run("a photo of <dog-rex>").split("\\n"), usual.run("a photo of a dog")]
"""
LITELLM = """
import litellm
litellm.suppress_debug_info = True
def made(model, **more):
    reply = litellm.image_generation(
        prompt="a photo of <dog-rex>", model=f"openai/{model}", api_base=address, api_key="none", size="32x32", **more)
    return reply.data[0]
rex = made("dog-rex", quality="high", n=1, output_format="png", background="auto", user="me")
answer = [
    rex.url,
    rex.b64_json,
    made("dall-e-3", quality="standard", n=1).b64_json,
]
try:
    made("nobody")
except Exception as problem:
    answer.append(f"{type(problem).__name__}: {problem}")
"""


def run(script, address, package):
    """What a script leaves as `answer`, in the environment that has the client."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{package}') is None)"
    if subprocess.run([PYTHON, "-c", look], check=False, timeout=60).returncode:
        pytest.skip(f"{PYTHON} has no {package}; set LORAFLEET_CLIENTS as the module's docstring says")
    whole = f"import json, sys\naddress = sys.argv[1]\n{script}\nprint(json.dumps(answer))"
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
    done = subprocess.run(
        [PYTHON, "-c", whole, f"{address}/v1"], capture_output=True, text=True, check=False, timeout=300,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def parameters(data):
    return Image.open(io.BytesIO(data)).info["parameters"].splitlines()[0]


def test_langchain(serve):
    *rex, usual = run(LANGCHAIN, serve(accept_any_model=True), "langchain_community")
    assert len(rex) == 2
    for url in rex:
        assert parameters(httpx.get(url).content) == "a photo of <dog-rex> <lora:dog-rex:1>"
    assert parameters(httpx.get(usual).content) == "a photo of a dog"


def test_litellm(serve):
    url, file, usual, refused = run(LITELLM, serve(accept_any_model=True), "litellm")
    assert parameters(httpx.get(url).content) == "a photo of <dog-rex> <lora:dog-rex:1>"
    assert parameters(base64.b64decode(file)) == "a photo of <dog-rex> <lora:dog-rex:1>"
    assert parameters(base64.b64decode(usual)) == "a photo of <dog-rex>"
    assert refused.startswith("NotFoundError: ")
    assert "dog-rex" in refused
