"""The command line: finds the groups of commands, and turns errors into lines and an exit code.

Knows only the platform's own commands. Training and serving register theirs through the entry-point group
`lorafleet.commands`. A command's module is imported when the command is used, so that `--help` answers at once.

Exit codes: 0 fine; 1 done, but some jobs failed or findings block; 2 bad input or configuration; 3 not found; 4 cluster
or service out of reach; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated

import typer
from typer.exceptions import TyperException

from lorafleet import __version__
from lorafleet.commands.lazy import register_commands
from lorafleet.commands.table import DEMO, register
from lorafleet.console import escape_unwritable, note
from lorafleet.errors import LorafleetError, ManifestError

GROUP = "lorafleet.commands"


@dataclass
class Options:
    """The options that stand before the command."""

    debug: bool = False


def new_app() -> typer.Typer:
    """The application with its global options and no commands yet."""
    app = typer.Typer(
        name="lorafleet",
        help="Trains dozens of personal image LoRAs at once and serves them at once.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_frame)
    return app


def _frame(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    context.ensure_object(Options).debug = debug
    if version:
        sys.stdout.write(f"lorafleet {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The application with every installed command."""
    app = new_app()
    register_commands(app, [DEMO])
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        entry.load()(app)
    register(app)
    return app


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; an expected error becomes a line on stderr.

    A manifest's has a line for each mistake. With `--debug` errors pass through as raised.
    """
    options = Options()
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="lorafleet", obj=options)
    except (LorafleetError, TyperException, OSError) as problem:
        if options.debug:
            raise
        message, code = _explain(problem)
        for line in message.split("\n") if isinstance(problem, ManifestError) else [message]:  # a mistake each
            note(line, "error", "bold red")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0


def _explain(problem: LorafleetError | TyperException | OSError) -> tuple[str, int]:
    if isinstance(problem, TyperException):
        context = getattr(problem, "ctx", None)
        command = context.command_path if context is not None else "lorafleet"
        return f"{problem.format_message().rstrip('.')} (see {command} --help)", problem.exit_code
    if isinstance(problem, LorafleetError):
        return str(problem), problem.exit_code
    return str(problem), 2


def main() -> int:
    """The console script."""
    escape_unwritable()
    return run(build_app(), sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
