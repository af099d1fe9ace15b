"""Tests stay on this machine, in their own folders, and leave cores to each other; slow ones say what they take."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tools")]
import slow_rotation as rotation

for key, value in {
    "OMP_NUM_THREADS": "1",
    "RAY_ADDRESS": "local",  # never a cluster that happens to run here
    "RAY_AUTH_MODE": "disabled",  # else Ray writes a token to ~/.ray
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ[key] = value
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("LORAFLEET_HOME", None)


def pytest_addoption(parser):
    group = parser.getgroup("slow tests")
    group.addoption("--promises", action="store_true", help="of the slow tests those that fit in --minutes, in turns")
    group.addoption("--minutes", type=float, default=30, help="how long the tests of --promises may take in all")
    group.addoption("--record", action="store_true", help="write down what slow tests took (tests/slow_seconds.json)")


def pytest_configure(config):
    config.pluginmanager.register(SlowTests(config), "slow-tests")


class SlowTests:
    """What slow tests take: said before and after them, and with `--promises` kept within a budget."""

    def __init__(self, config):
        self.config, self.took, self.unfinished = config, defaultdict(float), set()
        self.budget = 60 * config.getoption("--minutes") if config.getoption("--promises") else None
        self.known, self.costs, self.left_out, self.started = rotation.recorded(), {}, {}, time.monotonic()

    @pytest.hookimpl(trylast=True)  # after `-m`
    def pytest_collection_modifyitems(self, items):
        slow = {item.nodeid: item for item in items if item.get_closest_marker("slow")}
        self.costs = {test: self.known.get(test, _limit(item)) for test, item in slow.items()}
        if self.budget is None:
            return
        choice = rotation.choose(self.costs, rotation.changed_files(), rotation.turn_of(), self.budget)
        self.left_out = {test: self.costs[test] for test in choice.left_out}
        items[:] = [slow[test] for test in choice.run]
        self.config.hook.pytest_deselected(items=[slow[test] for test in choice.left_out])

    def pytest_collection_finish(self, session):
        chosen = [item.nodeid for item in session.items if item.nodeid in self.costs]
        if chosen:
            unknown = sum(test not in self.known for test in chosen)
            told = rotation.in_minutes([self.known.get(test, 0) for test in chosen])
            more = f", and {unknown} that were never measured" if unknown else ""
            self._say(f"{len(chosen)} slow tests, {told} as last measured{more}")

    def pytest_runtest_setup(self, item):
        spent = time.monotonic() - self.started
        if self.budget is not None and spent + self.costs[item.nodeid] > self.budget:
            self.left_out[item.nodeid] = self.costs[item.nodeid]
            pytest.skip("no time is left: this machine is slower than the one that was measured on")

    def pytest_runtest_logreport(self, report):
        if report.nodeid in self.costs and report.nodeid not in self.left_out:
            self.took[report.nodeid] += report.duration
            if not report.passed:
                self.unfinished.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter):
        for title, seconds in (("slow tests, seconds", self.took), ("left out this time", self.left_out)):
            if seconds:
                terminalreporter.section(title)
                self._say(*rotation.table(seconds))
        if any(cost > (self.budget or cost) for cost in self.left_out.values()):
            self._say("what alone takes longer than --minutes never runs here; measure it: ./dev test --slow --record")
        passed = {test: took for test, took in self.took.items() if test not in self.unfinished}
        if self.config.getoption("--record") and passed:
            from lorafleet.util.machine import describe_machine

            rotation.record(passed, describe_machine())

    def _say(self, *lines):
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        for line in lines:
            terminal.write_line(line)


def _limit(item):
    """Seconds that a test may take at most."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker is not None else item.config.getini("timeout"))


@pytest.fixture(scope="session")
def blank_mlflow(tmp_path_factory) -> Path:
    """An MLflow database with its tables and nothing in them; making one takes seconds, copying it nothing."""
    from lorafleet.tracking.client import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def with_mlflow(blank_mlflow):
    """Puts a blank MLflow database into a folder and returns the folder."""

    def put(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(blank_mlflow, folder / "mlflow.db")
        return folder

    return put


@pytest.fixture(scope="session")
def parses():
    """Lets the program that a command line names parse it, without running it."""

    def parse(words: list[str]) -> None:
        program, command, *rest = words
        if program == "lorafleet":
            import typer.main

            from lorafleet.cli import build_app

            group = typer.main.get_command(build_app())
        elif program == "ray":
            from ray.scripts.scripts import cli as group
        elif program == "mlflow":
            from mlflow.cli import cli as group
        else:
            raise AssertionError(f"no program {program} in the image")
        group.commands[command].make_context(command, list(rest))

    return parse


def programs() -> Path | None:
    """Where PostgreSQL's programs are; Debian keeps them out of the path."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


@pytest.fixture(scope="session")
def postgres():
    """The URL of a PostgreSQL server of our own, without a database's name; it ends with the tests."""
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest closes its own to other users at every start
    root = os.geteuid() == 0  # which PostgreSQL refuses to run as
    user = ["runuser", "-u", "postgres", "--"] if root else []
    if root:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    subprocess.run(
        [*user, where / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [*user, where / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], check=True, stdout=subprocess.DEVNULL)
    yield f"postgresql://postgres@127.0.0.1:{port}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(folder)


@pytest.fixture
def empty_postgres(postgres):
    """The URL of an empty database of PostgreSQL's."""
    from sqlalchemy import create_engine, text

    name = f"jobs_{uuid.uuid4().hex}"
    admin = create_engine(
        f"{postgres.replace('postgresql:', 'postgresql+psycopg:')}/postgres", isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return f"{postgres}/{name}"
