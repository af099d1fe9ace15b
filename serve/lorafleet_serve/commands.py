"""The serving commands: what the entry point `lorafleet.commands` loads. Imports none of them."""

from __future__ import annotations

import typer

from lorafleet.commands.lazy import Command, register_commands

IMAGES, REVIEW = "Make images", "Look and choose"
COMMANDS = (
    Command("serve", "lorafleet_serve.serve_commands:serve", "Serve images over HTTP until Ctrl-C.", IMAGES),
    Command(
        "generate",
        "lorafleet_serve.serve_commands:generate",
        "Make one image in this process, without a server.",
        IMAGES,
    ),
    Command(
        "sheet",
        "lorafleet_serve.sheet_commands:sheet",
        "Make a contact sheet of adapters, as a PNG and as a page with blind votes: photo, base, words alone, adapter.",
        REVIEW,
    ),
    Command(
        "compare",
        "lorafleet_serve.sheet_commands:compare",
        "Make an XY sheet: two of scale, adapter, sweep point, prompt, sampler, steps and seed against each other.",
        REVIEW,
    ),
    Command(
        "votes",
        "lorafleet_serve.sheet_commands:votes",
        "Add blind votes to their submission, and rank what was voted on, with 95 % intervals.",
        REVIEW,
    ),
)


def register(app: typer.Typer) -> None:
    """Adds `serve` and `generate`, and what a reviewer looks at: `sheet`, `compare` and `votes`."""
    register_commands(app, COMMANDS)
