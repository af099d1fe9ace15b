"""Addresses from the environment: the same databases for every process, in whatever folder it is; nonsense refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorafleet.cli import new_app, run
from lorafleet.errors import SettingsError
from lorafleet.home import Home
from lorafleet.util.addresses import sqlite_file, sqlite_url, tracking_address

NAMES = ("LORAFLEET_HOME", "MLFLOW_TRACKING_URI", "LORAFLEET_DATABASE_URL")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Two folders; the process is in the first, and what it says is relative to that."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name, said in zip(NAMES, ("home", "sqlite:///mlflow.db", "sqlite:///rows/jobs.db"), strict=True):
        monkeypatch.setenv(name, said)
    return tmp_path


def test_relative_addresses_mean_the_folder_in_which_they_were_said(elsewhere):
    home = Home.from_environment()
    assert home.root == elsewhere / "here" / "home"
    assert home.tracking_uri == f"sqlite:///{elsewhere / 'here' / 'mlflow.db'}"
    assert home.database_url == f"sqlite:///{elsewhere / 'here' / 'rows' / 'jobs.db'}"


def test_what_a_process_in_another_folder_is_told_means_the_same_there(elsewhere, monkeypatch):
    home = Home.from_environment()
    meant = (home.root, home.tracking_uri, home.database_url)
    for name, said in home.environment().items():
        monkeypatch.setenv(name, said)
    monkeypatch.chdir(elsewhere / "there")
    again = Home.from_environment()
    assert (again.root, again.tracking_uri, again.database_url) == meant


def test_without_variables_everything_lies_under_the_home_and_nothing_else_is_told(tmp_path, monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    home = Home(tmp_path)
    assert sqlite_file(home.tracking_uri) == tmp_path / "mlflow.db"
    assert sqlite_file(home.database_url) == tmp_path / "jobs.db"
    assert home.environment() == {"LORAFLEET_HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://mlflow.example/prefix", "https://mlflow.example/prefix"),
        ("postgresql://me:secret@host/db", "postgresql://me:secret@host/db"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
        ("sqlite:///m.db?timeout=3", "sqlite:///{here}/m.db?timeout=3"),
        ("databricks", "databricks"),
    ],
)
def test_addresses_that_mlflow_takes(said, meant):
    assert tracking_address(said) == meant.format(here=Path.cwd())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("./mlruns", "'./mlruns', a folder: MLflow's file store is not taken.*set|Set"),
        ("mlruns", "file store is not taken"),
        ("file:///srv/mlruns", "file store is not taken"),
        ("127.0.0.1:5000", "without http://; set MLFLOW_TRACKING_URI=http://127.0.0.1:5000$"),
        ("localhost:5000/mlflow", "set MLFLOW_TRACKING_URI=http://localhost:5000/mlflow$"),
        ("[::1]:5000", "without http://"),
        ("htp://host", "htp:// is not taken"),
        ("http://host:port", "names no host and port"),
        ("http://", "names no host and port"),
        ("sqlite://mlflow.db", "needs three slashes; set sqlite:///mlflow.db"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_addresses_that_are_none_are_refused_by_name(said, told):
    with pytest.raises(SettingsError, match=f"^MLFLOW_TRACKING_URI is .*({told})"):
        tracking_address(said)


def test_a_password_is_not_repeated():
    with pytest.raises(SettingsError) as refused:
        tracking_address("http://me:secret@host:port")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("folder", ["plain", "with space", "größe", "a#b+c@d:e", "100 % wool"])
def test_whatever_a_folder_is_called_its_database_lies_in_it(tmp_path, folder):
    from lorafleet_jobs.jobqueue.store import JobStore

    home = Home(tmp_path / folder)
    JobStore(home.database_url)
    assert home.database.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert sqlite_file(home.tracking_uri) == home.root / "mlflow.db"


@pytest.mark.parametrize(("folder", "odd"), [("pct%41x", "'%'"), ("photos?", "'[?]'"), ("a%2Fb?c", "'%' and '[?]'")])
def test_a_folder_that_no_address_can_say_is_refused_by_name(tmp_path, folder, odd):
    with pytest.raises(SettingsError, match=f"because of {odd} in it; set LORAFLEET_HOME"):
        sqlite_url(tmp_path / folder / "mlflow.db")


@pytest.mark.parametrize("group", ["adapters", "generate"])
def test_commands_refuse_a_file_store_in_one_line(group, monkeypatch, capsys, tmp_path):
    from lorafleet.commands import table
    from lorafleet_serve import commands

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    monkeypatch.chdir(tmp_path)
    app = new_app()
    table.register(app)
    commands.register(app)
    words = {"adapters": ["adapters", "ls"], "generate": ["generate", "a dog", "--adapter", "rex"]}[group]
    assert run(app, words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: MLFLOW_TRACKING_URI is './mlruns', a folder")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_refuses_it_before_it_starts(monkeypatch):
    from lorafleet_serve.replicas.serve_args import ServeArgs

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "127.0.0.1:5000")
    with pytest.raises(SettingsError, match="without http://"):
        ServeArgs(device="cpu").with_defaults()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(SettingsError, match=r"^tracking_uri is"):
        ServeArgs(device="cpu", tracking_uri="./mlruns").with_defaults()


FIRST_START = """
import sys
from pathlib import Path
from lorafleet.home import Home
from lorafleet.tracking.client import connect
from lorafleet_jobs.jobqueue.store import JobStore
home = Home(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
JobStore(home.database_url).submissions()
connect(home.tracking_uri).search_experiments()
"""


def test_processes_that_make_the_databases_at_once_all_find_them_whole(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    home = tmp_path / "new"
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_START, str(home)],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for one in starters:
        assert one.stdout.readline() == "ready\n", one.stderr.read()
    for one in starters:
        one.stdin.write("go\n")
        one.stdin.flush()
    ended = [one.communicate() for one in starters]
    assert [(one.returncode, err) for one, (_, err) in zip(starters, ended, strict=True)] == [(0, "")] * 3
