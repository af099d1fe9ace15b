"""Whether somebody answers at an address, over real sockets; this machine's own is asked without a proxy."""

import http.server
import json
import os
import socket
import threading

import pytest

from lorafleet.errors import RequestError, UnreachableError
from lorafleet.util.http_client import Client
from lorafleet.util.reach import PREFACE, SETTINGS, ask_directly, await_rpc, is_loopback


@pytest.fixture
def proxied(monkeypatch):
    """A machine whose proxy is away."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9" if "http" in name.lower() else "")


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/readyz")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"ready": True}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_server_on_this_machine_is_asked_without_a_proxy(server, proxied):
    assert Client(server, timeout=20).get("/readyz") == {"ready": True}


def test_answers_that_are_errors_or_elsewhere_or_none(server):
    client = Client(server, timeout=20)
    assert client.get("/moved") == {"ready": True}
    assert client.ready()
    with pytest.raises(RequestError, match=f'^{server}: 404 {{"ready": true}}$'):
        client.get("/missing")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=f"^{address} does not answer .*timed out.*lorafleet serve"):
            Client(address, timeout=0.2).get("/readyz")
    with pytest.raises(UnreachableError, match="Connection refused"):
        Client(address).get("/readyz")
    assert not Client(address).ready()


def test_so_is_mlflow(server, proxied, tmp_path):
    from lorafleet.tracking import MlflowRegistry

    assert MlflowRegistry(server, tmp_path).list() == []


def test_other_hosts_and_exceptions_stay_as_they_were(proxied, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet, 10.0.0.1")
    ask_directly("http://mlflow.example:5000")
    assert (os.environ["no_proxy"], os.environ["NO_PROXY"]) == ("", "intranet, 10.0.0.1")
    for _ in range(2):
        ask_directly("http://localhost:5000")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intranet,10.0.0.1,localhost"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "lf.localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost.example", "mlflow", "2001:db8::1"])
def test_not_loopback(host):
    assert not is_loopback(host)


def listener(answer: bytes | None):
    """A listener that reads a client's preface and answers; with None it says nothing."""
    there = socket.create_server(("127.0.0.1", 0))

    def talk():
        asker, _ = there.accept()
        with asker:
            assert asker.recv(len(PREFACE), socket.MSG_WAITALL) == PREFACE
            if answer is None:
                asker.recv(1)  # until the other gives up
            else:
                asker.sendall(answer)

    threading.Thread(target=talk, daemon=True).start()
    return there, f"127.0.0.1:{there.getsockname()[1]}"


def test_a_grpc_server_is_told_from_a_listener_that_says_nothing_or_something_else():
    there, address = listener(bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]))
    with there:
        await_rpc(address)
    for said, told in ((None, "nothing answered within"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no Ray")):
        there, address = listener(said)
        with there, pytest.raises(OSError, match=told):
            await_rpc(address, seconds=0.5)
    with pytest.raises(ConnectionRefusedError):
        await_rpc(address)


def test_a_real_grpc_server_answers():
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    await_rpc(f"127.0.0.1:{port}")
    server.stop(None)
