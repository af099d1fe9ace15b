"""The real thing, once: Ray Serve, HTTP, concurrent mixed requests, and a caller that leaves."""

import base64
import io
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from lorafleet_serve.deployment import ServeArgs
from lorafleet_serve.requests import GenerateRequest
from lorafleet_serve.server import curl_line, serving

URL = "/v1/images/generations"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(bundle_root):
    args = ServeArgs(bundles=str(bundle_root / "toy-playground"), max_rows=4, max_queue=0, device="cpu")
    with serving(args, port=free_port(), address="local") as url, httpx.Client(base_url=url, timeout=120) as client:
        yield client


def picture(reply):
    assert reply.status_code == 200, reply.text
    image = Image.open(io.BytesIO(base64.b64decode(reply.json()["data"][0]["b64_json"])))
    return np.asarray(image, dtype=int)


def test_concurrent_mixed_requests_over_http(server, playground, use):
    named = ["dog-rex", None, "mug-red", "half"]
    bodies = [
        {"prompt": f"<{name}>", "seed": i, "steps": 3 + i, "adapters": [{"name": name}] if name else []}
        for i, name in enumerate(named)
    ]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda body: server.post(URL, json=body), bodies))
    for i, (name, reply) in enumerate(zip(named, replies, strict=True)):
        adapters = (use(playground, name),) if name else ()
        expected = playground.submit(GenerateRequest(f"<{name}>", i, adapters=adapters, steps=3 + i)).result(60).image
        assert np.abs(picture(reply) - np.asarray(expected, dtype=int)).max() <= 2


def test_errors_cross_the_process_with_their_status(server):
    missing = server.post(URL, json={"prompt": "a", "adapters": [{"name": "nobody"}]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert "dog-rex" in missing.json()["error"]["message"]
    assert "\n" not in missing.json()["error"]["message"]
    assert server.post(URL, json={"prompt": "a", "size": "40x999"}).status_code == 422
    assert server.get("/readyz").json() == {"status": "ready"}
    assert server.get("/v1/models").json()["data"][0]["id"] == "toy-playground"
    assert len(server.get("/v1/adapters").json()["adapters"]) == 5


def test_a_caller_that_leaves_frees_the_engine(server):
    started = time.monotonic()
    assert server.post(URL, json={"prompt": "a", "n": 4, "steps": 10, "size": "64x64"}).status_code == 200
    ten_steps = time.monotonic() - started
    with pytest.raises(httpx.ReadTimeout):
        server.post(URL, json={"prompt": "a", "n": 4, "steps": 100, "size": "64x64"}, timeout=2 * ten_steps)
    started = time.monotonic()
    while (reply := server.post(URL, json={"prompt": "a", "n": 4, "steps": 1})).status_code == 429:
        assert int(reply.headers["retry-after"]) > 0
        time.sleep(0.02)
    assert reply.status_code == 200
    assert time.monotonic() - started < 5 * ten_steps  # of the eight that the caller left behind


def test_the_curl_line_works_as_printed(server, tmp_path):

    line = curl_line(str(server.base_url).rstrip("/"), "a <dog-rex>")
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, timeout=60)
    with Image.open(tmp_path / "image.png") as image:
        assert image.size == (32, 32)
