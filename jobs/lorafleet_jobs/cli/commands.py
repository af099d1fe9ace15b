"""The training commands: what the entry point `lorafleet.commands` loads. Imports neither torch nor ray."""

from __future__ import annotations

import typer

from lorafleet_jobs.cli.control_commands import register_control
from lorafleet_jobs.cli.evaluate_command import register_evaluate
from lorafleet_jobs.cli.plan_commands import register_intake
from lorafleet_jobs.cli.submit_command import register_submit


def register(app: typer.Typer) -> None:
    """Adds `check` and `plan`, everything about submissions, and `evaluate`."""
    register_intake(app)
    register_submit(app)
    register_control(app)
    register_evaluate(app)
