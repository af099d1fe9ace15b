"""A command's server ends with the command, whatever ends that, and takes what it started along."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a command in the background of a shell ignores
from lorafleet.util.child_server import run_server
with open(sys.argv[1], "ab") as log:
    sys.exit(run_server([sys.executable, "-c", sys.argv[2], *sys.argv[3:]], log))
"""
SERVER = """
import socket, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def left(port):
    """Processes that know of the port, beside this one."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(port) in (process.info["cmdline"] or []) and process.pid != os.getpid()
    ]


@pytest.mark.parametrize(
    ("number", "stubborn"),
    [(signal.SIGTERM, False), (signal.SIGKILL, False), (signal.SIGINT, False), (signal.SIGHUP, False),
     (signal.SIGKILL, True)],
)  # fmt: skip
def test_nothing_is_left_whatever_ends_the_command(tmp_path, number, stubborn):
    port = free_port()
    code = (STUBBORN if stubborn else "") + SERVER
    command = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log"), code, str(port)], stderr=subprocess.DEVNULL
    )
    until(lambda: listens(port))
    command.send_signal(number)
    code = command.wait(30)
    assert code == {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9, signal.SIGINT: -2}[number]
    until(lambda: not left(port))
    assert not listens(port)


def test_a_server_that_ends_by_itself_says_how(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log"), "print('so it goes'); raise SystemExit(7)"]
    assert subprocess.run(command).returncode == 7
    assert (tmp_path / "log").read_text() == "so it goes\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_pages_of_mlflow_end_with_the_command(tmp_path, number):
    port = free_port()
    environment = {**os.environ, "LORAFLEET_HOME": str(tmp_path)}
    command = subprocess.Popen(
        [sys.executable, "-m", "lorafleet", "ui", "--port", str(port)], env=environment, stderr=subprocess.DEVNULL
    )
    until(lambda: listens(port), 120)
    command.send_signal(number)
    command.wait(30)
    until(lambda: not listens(port) and not left(port))
