"""The list of submissions, and what a bare name means."""

import json
import os
import subprocess
import sys

import pytest

from lorafleet.cli import build_app, run
from lorafleet.home import Home
from lorafleet_jobs.cli.status_commands import _ago
from lorafleet_jobs.jobqueue.status import open_store


@pytest.fixture
def lorafleet(home, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(home.root))
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: run(build_app(), list(arguments))


def test_without_a_submission_it_says_where_there_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path))
    assert run(build_app(), ["ls"]) == 3
    assert f"nothing was submitted under {tmp_path}" in capsys.readouterr().err
    assert not Home(tmp_path).database.exists()


def test_submissions_the_newest_first_and_a_name_is_the_newest_of_it(home, recorded, lorafleet, capsys):
    old = recorded(home, "kitchen", "cup", "jug")
    other = recorded(home, "pets", "rex")
    new = recorded(home, "kitchen", "cup", "jug", "pot")
    open_store(home).cancel(new, 1.0, open_store(home).jobs(new)[0].id)
    assert lorafleet("ls") == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows[:3]] == [new, other, old]
    assert "3  running: 2 queued, 1 cancelled" in rows[0]
    assert rows[1].split()[2:4] == ["1", "queued"]
    assert lorafleet("ls", "--json") == 0
    assert [each["submission"] for each in json.loads(capsys.readouterr().out)["submissions"]] == [new, other, old]
    for wanted, right in [("kitchen", new), (old, old), ("pets", other), (other[:-3], other)]:
        assert lorafleet("status", wanted, "--json") == 0
        assert json.loads(capsys.readouterr().out)["submission"] == right


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s ago"), (90, "90 s ago"), (150, "2 min ago"), (10_000, "3 h ago"), (9e5, "10 d ago")],
)
def test_how_long_ago(seconds, words):
    assert _ago(seconds) == words


def complete(words: str, shell: str = "bash") -> list[str]:
    """What the shell offers for the last word of a command line, asked as its script asks."""
    asked = {
        "bash": {"COMP_WORDS": f"lorafleet {words}", "COMP_CWORD": str(len(words.split(" ")))},
        "zsh": {"_TYPER_COMPLETE_ARGS": f"lorafleet {words}"},
        "fish": {"_TYPER_COMPLETE_ARGS": f"lorafleet {words}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    program = [sys.executable, "-m", "lorafleet"]
    variables = {**os.environ, **asked, "_LORAFLEET_COMPLETE": f"complete_{shell}"}
    return subprocess.run(program, env=variables, capture_output=True, text=True).stdout.split("\n")


def test_shells_complete_commands_submissions_and_jobs(home, recorded, lorafleet):
    old, new = recorded(home, "garden", "rose"), recorded(home, "stable", "bella")
    assert "status" in complete("st")
    assert set(complete("status ")) >= {old, new}
    assert complete("watch sta")[0] == new
    assert complete("logs be")[0] == "bella"
    assert "--detach" in complete("submit --det")
    assert any(f'"{new}"' in line for line in complete("status sta", "zsh"))
    assert any(line.startswith(new) for line in complete("status sta", "fish"))


def test_where_nothing_was_submitted_nothing_is_completed_and_nothing_said(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "none"))
    assert "".join(complete("status ")).strip() == ""
    assert not (tmp_path / "none").exists()
