"""The serving commands: what the entry point `lorafleet.commands` loads. Imports none of them."""

from __future__ import annotations

import typer

from lorafleet.commands.lazy import Command, register_commands

IMAGES = "Make images"
COMMANDS = (
    Command("serve", "lorafleet_serve.serve_commands:serve", "Serve images over HTTP until Ctrl-C.", IMAGES),
    Command(
        "generate",
        "lorafleet_serve.serve_commands:generate",
        "Make one image in this process, without a server.",
        IMAGES,
    ),
)


def register(app: typer.Typer) -> None:
    """Adds `serve` and `generate`."""
    register_commands(app, COMMANDS)
