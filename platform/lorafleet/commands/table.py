"""The platform's own commands. Imports none of them."""

from __future__ import annotations

import typer

from lorafleet.commands.lazy import Command, register_commands

START, REVIEW = "Start here", "Look and choose"
DEMO = Command(
    "demo",
    "lorafleet.commands.demo:demo",
    "Train six made-up subjects, serve them, and leave a contact sheet. Offline, on a CPU, in minutes.",
    START,
)
UI = Command(
    "ui",
    "lorafleet.commands.ui_command:ui",
    "Open MLflow's pages on 127.0.0.1, until interrupted: a submission's runs side by side, or an adapter's versions.",
    REVIEW,
)
ADAPTERS = (
    Command("ls", "lorafleet.commands.adapters:ls", "List every adapter version."),
    Command(
        "show",
        "lorafleet.commands.adapters:show",
        "Show one adapter version: how to prompt it, what it came from, where it lies.",
    ),
    Command(
        "export",
        "lorafleet.commands.adapters:export",
        "Write one adapter version for other programs.",
    ),
    Command(
        "promote",
        "lorafleet.commands.adapters_promote:promote",
        "Make one version champion, whatever submissions do later.",
    ),
    Command(
        "demote",
        "lorafleet.commands.adapters_promote:demote",
        "Take an alias away from the version that has it.",
    ),
    Command(
        "verify",
        "lorafleet.commands.adapters_promote:verify",
        "Check that adapters are whole: every file's hash, shapes, and that the base is here.",
    ),
    Command(
        "rm",
        "lorafleet.commands.adapters_rm:rm",
        "Remove an adapter, or one version of it, with its bundles; its run stays. Exit code 3: there is none.",
    ),
    Command(
        "import",
        "lorafleet.commands.adapters_import:import_file",
        "Register a LoRA file (.safetensors of kohya, OneTrainer, ComfyUI, PEFT, diffusers) as an adapter, to "
        "serve it.",
    ),
)

BASES = (
    Command(
        "ls",
        "lorafleet.commands.base_commands:ls",
        "List the bases on this machine: shipped, added, and those known by a short name that were fetched.",
    ),
    Command(
        "add",
        "lorafleet.commands.base_commands:add",
        "Make a base of a checkpoint of one file (SDXL, Playground v2.5), or of a base and another VAE.",
    ),
    Command(
        "verify",
        "lorafleet.commands.base_commands:verify",
        "Read every tensor of a base: finite, of its shape, and as it was when it was added.",
    ),
    Command(
        "rm",
        "lorafleet.commands.base_commands:rm",
        "Remove a base that was added. What it was made of stays, and so do adapters.",
    ),
)


def register(app: typer.Typer) -> None:
    """Adds the groups `adapters` and `bases`, and `ui`."""
    group = typer.Typer(help="The adapters that were trained or imported, and registered.", no_args_is_help=True)
    register_commands(group, ADAPTERS)
    app.add_typer(group, name="adapters", rich_help_panel=REVIEW)
    bases = typer.Typer(help="Checkpoints of one file, and other bases that were added.", no_args_is_help=True)
    register_commands(bases, BASES)
    app.add_typer(bases, name="bases", rich_help_panel=START)
    register_commands(app, [UI])
