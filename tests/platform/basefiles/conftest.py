"""Commands on a home without MLflow, which bases do not need."""

import pytest


@pytest.fixture
def lorafleet(tmp_path, monkeypatch):
    """lorafleet("bases", "ls") runs a command; returns its exit code."""
    from lorafleet.cli import new_app, run
    from lorafleet.commands.table import register

    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    app = new_app()
    register(app)
    return lambda *arguments: run(app, [str(argument) for argument in arguments])
