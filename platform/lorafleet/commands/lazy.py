"""Commands as a table: what each is called, where its function is, and the sentence that `--help` lists it with.

A command's module is imported when that command runs or explains itself. So `lorafleet --help` imports nothing heavy,
and the modules of commands import at the top like all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand

from lorafleet.console import working


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str
    function: str
    """`module:function`; its signature is the command's, its docstring the command's help."""
    help: str
    """The first paragraph of that docstring."""
    panel: str | None = None
    """Under which heading `--help` lists it; None for the plain list of a group."""


def register_commands(app: typer.Typer, commands: Iterable[Command]) -> None:
    """Adds commands to an application, each to be loaded when it is wanted."""
    for command in commands:
        app.command(command.name, cls=_lazy(command), help=command.help, rich_help_panel=command.panel)(_nothing)


def load(command: Command) -> TyperCommand:
    """The command itself. Raises ImportError if its module is missing, AttributeError if its function is."""
    module, _, function = command.function.partition(":")
    alone = typer.Typer(add_completion=False)
    alone.command(command.name)(getattr(import_module(module), function))
    loaded = typer.main.get_command(alone)
    assert isinstance(loaded, TyperCommand)  # an application of one command is that command
    return loaded


def _lazy(command: Command) -> type[TyperCommand]:
    class LazyCommand(TyperCommand):
        def make_context(self, *arguments: Any, **more: Any) -> Any:
            with (
                nullcontext() if more.get("resilient_parsing") else working(f"{command.name} ...")
            ):  # a shell completes
                loaded = load(command)
            return loaded.make_context(*arguments, **more)

    return LazyCommand


def _nothing() -> None:
    """Stands for a command that is not loaded."""
