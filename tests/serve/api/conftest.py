"""The application on a real socket, as clients meet it, with an engine of this process behind it."""

import socket
import threading
import time

import pytest
import uvicorn

from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.service import EngineService


@pytest.fixture
def serve(playground, registry):
    """serve(accept_any_model=..., auto_adapters=..., registry=...) -> the address of a server on toy-playground."""
    running = []

    def start(accept_any_model=False, auto_adapters=False, registry=registry):
        service = EngineService(playground, registry, auto_adapters=auto_adapters)
        listening = socket.create_server(("127.0.0.1", 0))
        app = build_app(service, accept_any_model=accept_any_model)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def service(playground, registry):
    made = EngineService(playground, registry)
    yield made
    made.resolver.close()
