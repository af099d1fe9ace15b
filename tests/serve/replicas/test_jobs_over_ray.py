"""Jobs on Ray Serve: a replica is killed under one, another is cancelled, events stream, and none is lost."""

import os
import signal
import socket
import time

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lorafleet_serve.replicas.serve_args import ServeArgs
from lorafleet_serve.replicas.server import serving

URL = "/v1/jobs"
LONG = {"prompt": "a <dog-rex>", "steps": 100, "size": "64x64", "n": 4, "adapters": [{"name": "dog-rex"}]}


@pytest.fixture(scope="module")
def server(bundle_root, tmp_path_factory):
    os.environ["LORAFLEET_HOME"] = str(tmp_path_factory.mktemp("home"))  # of Ray's processes
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = ServeArgs(bundles=str(bundle_root / "toy-playground"), max_rows=4, max_queue=0, device="cpu")
    try:
        with serving(args, port=port, address="local") as url, httpx.Client(base_url=url, timeout=120) as client:
            yield client
    finally:
        del os.environ["LORAFLEET_HOME"]


def count(client, name):
    """A metric's sum over the replicas."""
    families = text_string_to_metric_families(client.get("/metrics").raise_for_status().text)
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == f"lorafleet_{name}")


def wait_until(true, seconds=90):
    for _ in range(seconds * 10):
        if true():
            return
        time.sleep(0.1)
    pytest.fail(f"not so after {seconds} s")


def job(client, id_):
    return client.get(f"{URL}/{id_}").raise_for_status().json()


@pytest.mark.slow
def test_jobs_outlive_their_replica_and_are_cancelled_on_it(server):
    cancelled = server.post(URL, json=LONG).json()["id"]
    waiting = server.post(URL, json=LONG | {"n": 1, "steps": 2, "seed": 5}).json()
    assert (waiting["status"], waiting["place"]) == ("queued", 1)
    wait_until(lambda: count(server, "rows_running") == LONG["n"])
    assert server.delete(f"{URL}/{cancelled}").json()["status"] == "cancelled"
    wait_until(lambda: count(server, "images_cancelled_total") == LONG["n"])
    wait_until(lambda: job(server, waiting["id"])["status"] == "succeeded")

    killed = server.post(URL, json=LONG).json()["id"]
    wait_until(lambda: count(server, "rows_running") == LONG["n"])
    children = psutil.Process().children(recursive=True)
    engine = next(one for one in children if "ServeReplica:lorafleet:engine" in " ".join(one.cmdline()))
    os.kill(engine.pid, signal.SIGKILL)
    with server.stream("GET", f"{URL}/{killed}/events") as stream:
        events = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    assert events == ["queued", "running", "running", "succeeded"], "made again once, and told as it happened"
    assert len(job(server, killed)["result"]["data"]) == LONG["n"]
