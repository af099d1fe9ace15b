"""The real thing, once: Ray Serve with two replicas over HTTP; callers leave, a replica dies, an app is redeployed."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from lorafleet.bundle.folder_registry import version_of
from lorafleet.errors import UnreachableError
from lorafleet_serve.engine.init_image import InitImage, Picture
from lorafleet_serve.engine.requests import AdapterUse, GenerateRequest
from lorafleet_serve.replicas.serve_args import ServeArgs
from lorafleet_serve.replicas.server import check_gpus, curl_line, serving

URL = "/v1/images/generations"
LONG = {"prompt": "a", "n": 4, "steps": 100, "size": "64x64"}
REPLICAS, ROWS = 2, 4


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(bundle_root, tmp_path_factory):
    os.environ["LORAFLEET_HOME"] = str(tmp_path_factory.mktemp("home"))  # of Ray's processes
    args = ServeArgs(
        bundles=str(bundle_root / "toy-playground"), max_rows=ROWS, max_queue=0, replicas=REPLICAS, device="cpu"
    )
    try:
        with serving(args, port=free_port(), address="local") as url, httpx.Client(base_url=url, timeout=120) as client:
            wait_until(lambda: len(counts(client, "rows_running")) == REPLICAS)
            yield client
    finally:
        del os.environ["LORAFLEET_HOME"]


def counts(client, name, label="replica"):
    """A metric's value by replica, or by another label."""
    text = client.get("/metrics").raise_for_status().text
    return {
        sample.labels[label]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"lorafleet_{name}"
    }


def wait_until(true, seconds=60):
    for _ in range(seconds * 10):
        if true():
            return
        time.sleep(0.1)
    pytest.fail(f"not so after {seconds} s")


def picture(reply):
    assert reply.status_code == 200, reply.text
    image = Image.open(io.BytesIO(base64.b64decode(reply.json()["data"][0]["b64_json"])))
    return np.asarray(image, dtype=int)


def made_of(name, i):
    body = {"prompt": f"<{name}>", "seed": i, "steps": 3 + i % 4, "adapters": [{"name": name}] if name else []}
    return name, i, body


@pytest.fixture(scope="module")
def is_right(playground, bundle_root):
    """Whether a reply shows what an engine in this process makes of the same request."""

    def check(name, i, reply):
        adapters = (AdapterUse(version_of(bundle_root / "toy-playground" / name)),) if name else ()
        request = GenerateRequest(f"<{name}>", i, adapters=adapters, steps=3 + i % 4)
        expected = playground.submit(request).result(60).image
        return np.abs(picture(reply) - np.asarray(expected, dtype=int)).max() <= 2

    return check


def test_an_adapter_is_loaded_by_one_replica_and_requests_follow_it(server):
    names = ["dog-rex", "mug-red", "plain", "half", "dora"]
    for _ in range(3):
        for name in names:
            assert server.post(URL, json=made_of(name, 0)[2]).status_code == 200
    assert sum(counts(server, "host_misses_total").values()) == len(names)
    assert sum(counts(server, "images_total").values()) == 3 * len(names)


def test_concurrent_mixed_requests_over_http(server, is_right):
    asked = [made_of(name, i) for i, name in enumerate(["dog-rex", None, "mug-red", "half"])]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda one: server.post(URL, json=one[2]), asked))
    assert all(is_right(name, i, reply) for (name, i, _), reply in zip(asked, replies, strict=True))


def test_errors_cross_the_process_with_their_status(server):
    missing = server.post(URL, json={"prompt": "a", "adapters": [{"name": "nobody"}]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert "dog-rex" in missing.json()["error"]["message"]
    assert "\n" not in missing.json()["error"]["message"]
    assert server.post(URL, json={"prompt": "a", "size": "40x999"}).status_code == 422
    assert server.get("/readyz").json() == {"status": "ready"}
    assert server.get("/v1/models").json()["data"][0]["id"] == "toy-playground"
    assert "few-steps" in [one["name"] for one in server.get("/v1/adapters").json()["adapters"]]


def test_a_picture_of_megabytes_is_edited_over_http(server, playground, bundle_root):
    stream = io.BytesIO()
    photo = Image.effect_noise((2000, 1500), 90).convert("RGB")
    photo.save(stream, format="PNG")
    assert stream.tell() > 2**21
    form = {"prompt": "<dog-rex>", "model": "dog-rex", "seed": 3, "steps": 4, "strength": 0.5, "size": "32x32"}
    reply = server.post("/v1/images/edits", data=form, files={"image": ("photo.png", stream.getvalue())})
    request = GenerateRequest(
        "<dog-rex>", 3, steps=4, adapters=(AdapterUse(version_of(bundle_root / "toy-playground" / "dog-rex")),),
        init=InitImage.of(Picture.of(photo), (32, 32), 0.5),
    )  # fmt: skip
    expected = np.asarray(playground.submit(request).result(60).image, dtype=int)
    assert np.abs(picture(reply) - expected).max() <= 2


@pytest.fixture
def caller(server):
    """caller(body) -> a connection on which the request was sent and nothing is read."""
    body, url = json.dumps(LONG).encode(), server.base_url
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with ExitStack() as calling:

        def call():
            connection = calling.enter_context(socket.create_connection((url.host, url.port)))
            connection.sendall(head.encode() + body)
            return connection

        yield call


def test_callers_that_leave_free_the_engines_and_too_many_are_told_when_to_come_back(server, caller):
    before = sum(counts(server, "images_cancelled_total").values())
    calling = []
    for i in range(REPLICAS):
        calling.append(caller())
        wait_until(lambda n=i: sorted(counts(server, "rows_running").values())[-n - 1] == ROWS)
    busy = server.post(URL, json={"prompt": "a", "steps": 1})
    assert (busy.status_code, busy.json()["error"]["code"]) == (429, "busy")
    assert busy.headers["retry-after"] == "1", "nothing waits, so a place may be free at once"
    for connection in calling:
        connection.close()
    wait_until(lambda: sum(counts(server, "images_cancelled_total").values()) == before + REPLICAS * ROWS)
    assert counts(server, "http_requests_total", "status")["499"] == REPLICAS
    assert server.post(URL, json={"prompt": "a", "steps": 1}).status_code == 200


def test_more_engines_than_gpus_are_refused_instead_of_waited_for(server):
    with pytest.raises(UnreachableError, match=r"2 replicas of 0\.5 GPUs each do not fit on this machine's 0"):
        check_gpus(ServeArgs(device="cuda", replicas=2, gpus_per_replica=0.5))


def test_the_curl_line_works_as_printed(server, tmp_path):
    line = curl_line(str(server.base_url).rstrip("/"), "a <dog-rex>")
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, timeout=60)
    with Image.open(tmp_path / "image.png") as image:
        assert image.size == (32, 32)


def engine_processes():
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "ServeReplica:lorafleet:engine" in " ".join(one.cmdline())]


def test_a_replica_killed_under_load_is_replaced_and_no_image_is_wrong(server, is_right):
    asked = [made_of(name, i) for i, name in enumerate(["dog-rex", "plain", None, "half"] * 10)]
    before = set(counts(server, "images_total"))
    with ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(server.post, URL, json=body) for _, _, body in asked]
        wait_until(lambda: sum(reply.done() for reply in replies) >= 4)
        os.kill(engine_processes()[0].pid, signal.SIGKILL)
    replies = [reply.result() for reply in replies]
    assert {reply.status_code for reply in replies} <= {200, 429, 503}
    lost = [reply for reply in replies if reply.status_code == 503]
    assert len(lost) <= 4, "at most those that ran there"
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in lost)
    made = [(name, i, reply) for (name, i, _), reply in zip(asked, replies, strict=True) if reply.status_code == 200]
    assert len(made) >= len(asked) // 2
    assert all(is_right(*one) for one in made)
    wait_until(lambda: len(counts(server, "images_total")) == REPLICAS)
    assert len(set(counts(server, "images_total")) - before) == 1, "one is new"
    assert server.get("/readyz").status_code == 200


@pytest.mark.slow
def test_serve_yaml_is_deployed_over_it_while_a_request_runs(server, request):
    config = yaml.safe_load((request.config.rootpath / "serve" / "serve.yaml").read_text())
    config["applications"][0]["args"]["device"] = "cpu"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, URL, json=LONG)
        wait_until(lambda: sum(counts(server, "rows_running").values()) == LONG["n"])
        before = set(counts(server, "images_total"))
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)
        assert running.result().status_code == 200, "the old replica finished what it had accepted"
    wait_until(lambda: not before & set(counts(server, "images_total")))
    assert server.get("/v1/adapters").json() == {"adapters": []}, "the home's registry, which is empty"
    assert picture(server.post(URL, json={"prompt": "a dog", "steps": 2})).shape == (32, 32, 3)
