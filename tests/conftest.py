"""Tests stay on this machine, in their own folders, and leave cores to each other."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

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
