"""MLflow's own server, to be stopped and started again, and a wire to it that can be cut."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """MLflow's own server over a SQLite database, on one port for life."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.home / 'mlflow.db'}"]  # fmt: skip
        log = (self.home / "server.log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.home, start_new_session=True)
        for _ in range(480):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            assert self.process.poll() is None, (self.home / "server.log").read_text()
            time.sleep(0.25)
        pytest.fail("the MLflow server did not come up")

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait(20)


class Wire:
    """A way to a server that can be `cut`, or `deaf`: what is asked arrives, what is answered does not."""

    def __init__(self, port: int) -> None:
        self.state, self._port = "whole", port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            with contextlib.suppress(OSError):
                asker, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(asker,), daemon=True).start()

    def _talk(self, asker):
        with asker, socket.create_connection(("127.0.0.1", self._port)) as server, contextlib.suppress(OSError):
            back = threading.Thread(target=self._pump, args=(server, asker, ("whole",)), daemon=True)
            back.start()
            self._pump(asker, server, ("whole", "deaf"))
            back.join()

    def _pump(self, source, sink, passing):
        with contextlib.suppress(OSError):
            while self.state in passing and (data := source.recv(65536)):
                if self.state not in passing:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
