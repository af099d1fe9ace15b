"""A submission as a Ray job: what is decided, what goes wrong, and a real cluster with token authentication."""

import http.server
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from lorafleet.cli import new_app, run
from lorafleet_jobs.cli import ray_job_main
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.cluster import ray_job
from lorafleet_jobs.cluster.ray_job import Handed, entrypoint, job_api, next_step
from lorafleet_jobs.intake.prepare import prepare

ROOT = Path(__file__).parents[3]
TOKEN = "only-for-this-test-only-for-this-test"


def write_manifest(folder, name, steps=2):
    for subject, blue in (("cup", 20), ("jug", 200)):
        (folder / subject).mkdir(exist_ok=True)
        for index in range(4):
            Image.new("RGB", (48, 40), (60 * index + 30, 90, blue)).save(folder / subject / f"{index}.png")
    text = {
        "apiVersion": "lorafleet/v1alpha1", "name": name, "base": "toy-playground",
        "recipe": {"rank": 2, "steps": steps}, "validation": {"steps": 1},
        "subjects": [{"name": f"{name}-{subject}", "images": subject, "class": "vessel"} for subject in ("cup", "jug")],
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(text))
    return path


def lorafleet(*arguments):
    app = new_app()
    register(app)
    return run(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (None, "submit"), ("PENDING", "leave"), ("RUNNING", "leave"), ("SUCCEEDED", "leave"),
        ("FAILED", "replace"), ("STOPPED", "replace"),
    ],
)  # fmt: skip
def test_a_job_is_submitted_once_and_again_only_if_it_ended_badly(status, step):
    assert next_step(status) == step


def test_every_state_of_a_ray_job_is_known():
    from ray.job_submission import JobStatus

    assert {str(status.value) for status in JobStatus} == set(ray_job.JobStatus.__args__)


@pytest.mark.parametrize(
    ("given", "surroundings", "found"),
    [
        ("http://head:8265", "", "http://head:8265"),
        ("https://ray.example", "", "https://ray.example"),
        ("ray://head:10001", "http://other:8265", None),
        ("head:6379", "", None),
        (None, "http://head:8265", "http://head:8265"),
        (None, "10.0.0.1:6379", None),
        (None, "", None),
    ],
)
def test_only_an_http_address_is_a_job_api(given, surroundings, found, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", surroundings)
    assert job_api(given) == found


def test_the_entrypoint_survives_the_shell_and_names_places_absolutely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my base").mkdir()
    said = subprocess.run(
        ["sh", "-c", entrypoint(Path("a b/it's.yaml"), "pets-1", "my base").replace("python", "printf '%s\\n'", 1)],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert said[0] == "-m"
    assert said[2:] == [f"{tmp_path}/a b/it's.yaml", "pets-1", f"{tmp_path}/my base"]
    assert entrypoint(Path("/m.yaml"), "pets-1", "sdxl").endswith("/m.yaml pets-1 sdxl")


@pytest.mark.parametrize(
    ("step", "was", "words"),
    [
        ("submit", None, "pets-1 is submitted; ray job logs --follow --address http://h:8265 pets-1"),
        ("replace", "FAILED", "pets-1 is submitted again (it had failed); "),
        ("leave", "RUNNING", "pets-1 was already submitted, it is under way; "),
        ("leave", "SUCCEEDED", "pets-1 was already submitted, it has succeeded; "),
    ],
)
def test_the_story_says_what_became_of_it_and_how_to_follow(step, was, words):
    assert Handed("pets-1", "http://h:8265", step, was).story.startswith(words)


def test_a_job_api_out_of_reach_is_exit_4(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert lorafleet("submit", write_manifest(tmp_path, "kitchen"), "-y", "--address", address) == 4
    assert f"no Ray job API answers at {address}" in capsys.readouterr().err
    assert not (tmp_path / ".lorafleet").exists()


def test_another_server_at_that_address_is_exit_4(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietHandler))
        stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert lorafleet("submit", write_manifest(tmp_path, "kitchen"), "-y", "--address", address) == 4
    assert "it is the dashboard's address" in capsys.readouterr().err
    assert os.environ["RAY_ADDRESS"] == "local"
    assert "RAY_API_SERVER_ADDRESS" not in os.environ


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_cluster_without_a_home_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = write_manifest(tmp_path, "kitchen")
    assert ray_job_main.main([str(manifest), prepare(manifest).plan.submission]) == 2
    assert "LORAFLEET_HOME is not set on the cluster" in capsys.readouterr().err
    assert not (tmp_path / ".lorafleet").exists()


def test_photos_that_changed_under_way_are_not_trained_under_the_old_id(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    manifest = write_manifest(tmp_path, "kitchen")
    submission = prepare(manifest).plan.submission
    Image.new("RGB", (48, 40), (1, 2, 3)).save(tmp_path / "cup" / "0.png")
    assert ray_job_main.main([str(manifest), submission]) == 2
    assert f"but {submission} where it was submitted" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


class Machine:
    """A Ray head of its own, under a Python that has lorafleet's dependencies but not lorafleet."""

    def __init__(self, folder, port):
        self.home, self.port = folder / "home", port
        self.address = f"http://127.0.0.1:{port}"
        venv.create(folder / "python", with_pip=False)
        self.python = folder / "python" / "bin" / "python"
        self.packages = next((folder / "python" / "lib").iterdir()) / "site-packages"
        mine = next(path for path in sys.path if path.endswith("site-packages"))
        (self.packages / "dependencies.pth").write_text(mine)
        with (folder / "ray.log").open("wb") as log:
            self.process = subprocess.Popen(self._command(folder), env=self.environment(), stdout=log, stderr=log)

    def environment(self, **more):
        path = f"{self.python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))}
        kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
        return kept | {"PATH": path, "LORAFLEET_HOME": str(self.home), "PIP_NO_DEPS": "1"} | more

    def _command(self, folder):
        ports = {"dashboard-port": 0, "dashboard-agent-listen-port": 1, "ray-client-server-port": 2}
        return [
            self.python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--num-cpus=2",
            "--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}", f"--object-store-memory={128 * 2**20}",
            *(f"--{name}={self.port + offset}" for name, offset in ports.items()),
        ]  # fmt: skip

    def run(self, *command, **more):
        """Runs a command of this Python and gives (exit code, what it said)."""
        done = subprocess.run(
            [self.python, "-m", *map(str, command)], env=self.environment(**more), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240,
        )  # fmt: skip
        return done.returncode, done.stdout

    def job(self, *arguments):
        return self.run("ray.scripts.scripts", "job", arguments[0], "--address", self.address, *arguments[1:])

    def until(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it takes too long"
            assert self.process.poll() is None, "Ray has ended"
            time.sleep(0.5)

    def answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0 and self.job("list")[0] == 0

    def close(self):
        family = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):  # it ended with another
                one.kill()
        self.process.wait()


@pytest.fixture
def machine():
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:  # sockets need short paths
        started = Machine(Path(short), port=28265)
        try:
            started.until(started.answers)
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    return next(folder.glob("lorafleet-*.whl"))


@pytest.mark.slow
def test_the_wheel_as_a_ray_job_on_a_fresh_cluster(machine, wheel, tmp_path):
    """docs/clusters.md: the wheel travels with the job; then an image that has it, `submit --address`, stop, again."""
    manifest = write_manifest(tmp_path, "kitchen")
    submission = prepare(manifest).plan.submission
    code, said = machine.run("lorafleet", "--help")
    assert code == 1, "the cluster's Python does not have lorafleet"
    assert "No module named lorafleet" in said

    environment = json.dumps({"py_modules": [str(wheel)]})
    words = ["python", "-m", "lorafleet", "submit", manifest, "-y"]
    code, said = machine.job("submit", "--submission-id", submission, "--runtime-env-json", environment, "--", *words)
    assert code == 0, said
    assert f"{submission}: 2 succeeded" in said

    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", machine.packages, wheel], check=True
    )

    def submit(path, **more):
        return machine.run("lorafleet", "submit", path, "-y", "--address", machine.address, **more)

    code, said = submit(manifest, RAY_ADDRESS="local")
    assert (code, "already submitted, it has succeeded" in said) == (0, True), said
    code, said = submit(manifest, RAY_AUTH_MODE="disabled")
    assert (code, "refuses this token" in said) == (4, True), said
    code, said = submit(manifest, RAY_AUTH_TOKEN="another-token-another-token-another")
    assert (code, "refuses this token" in said) == (4, True), said

    longer = write_manifest(tmp_path, "pantry", steps=400)
    submission = prepare(longer).plan.submission
    code, said = submit(longer)
    assert (code, f"{submission} is submitted; " in said) == (0, True), said
    code, said = submit(longer)
    assert (code, "already submitted, it is under way" in said) == (0, True), said
    machine.until(lambda: "step 2" in machine.job("logs", submission)[1])
    assert machine.job("stop", submission)[0] == 0
    assert "stopping between two steps" in machine.job("logs", submission)[1]
    code, said = submit(longer)
    assert (code, f"{submission} is submitted again (it had stopped); " in said) == (0, True), said
    machine.until(lambda: "succeeded" in machine.job("status", submission)[1])
    said = machine.job("logs", submission)[1]
    assert all(f"pantry-{subject}: succeeded, step 400/400" in said for subject in ("cup", "jug")), said
