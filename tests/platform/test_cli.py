"""The frame of the command line: exit codes, one-line errors, and commands found through entry points."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lorafleet import __version__, errors
from lorafleet.cli import new_app, run
from lorafleet.config import Resources
from lorafleet.console import one_line, print_json

HEAVY = ["torch", "ray", "mlflow", "diffusers", "transformers", "fastapi", "sqlalchemy"]


def app_that(action: object) -> typer.Typer:
    """An application with the command `do`, which raises `action` or returns it."""
    app = new_app()

    @app.command("do")
    def do(n: int = 1) -> object:
        if isinstance(action, BaseException):
            raise action
        return action

    @app.command("rest")
    def rest() -> None: ...

    return app


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_a_command_returns_its_exit_code(returned: int | None, code: int) -> None:
    assert run(app_that(returned), ["do"]) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NonFiniteError("loss is nan"), 1),
        (errors.ManifestError("'x' is 3"), 2),
        (errors.NotFoundError("no adapter 'rex'"), 3),
        (errors.UnreachableError("no Ray at 1.2.3.4"), 4),
        (PermissionError(13, "Permission denied", "/x"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_an_exit_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app_that(error), ["do"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("" if code == 130 else f"error: {error}\n")


def test_an_error_is_one_line_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app_that(errors.DataError("a\nb \x1b[2J [red]c[/red] [/")), ["do"]) == 2
    assert capsys.readouterr().err == "error: a b \\x1b[2J [red]c[/red] [/\n"
    assert one_line("é\t\r\n") == "é\\t"


def test_debug_lets_the_error_through() -> None:
    with pytest.raises(errors.ManifestError, match="bad"):
        run(app_that(errors.ManifestError("bad")), ["--debug", "do"])


def test_a_bug_is_never_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        run(app_that(ZeroDivisionError("bug")), ["do"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["dou"], "error: No such command 'dou'. Did you mean 'do'? (see lorafleet --help)\n"),
        (["do", "--n", "x"], "Invalid value for '--n'"),
        (["do", "--m"], "error: No such option: --m"),
        (["--nope"], "error: No such option: --nope"),
    ],
)
def test_a_usage_error_is_exit_2(line: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app_that(None), line) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_version_and_bare_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app_that(7), ["--version"]) == 0
    assert capsys.readouterr().out == f"lorafleet {__version__}\n"
    assert run(app_that(7), []) == 0
    assert "Usage: lorafleet" in capsys.readouterr().out


def test_print_json_writes_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, "é"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, "é"]}
    print_json(Resources(lanes=2))
    assert json.loads(capsys.readouterr().out)["lanes"] == 2
    with pytest.raises(ValueError, match="JSON"):
        print_json({"a": float("nan")})


def test_help_finds_the_commands_and_loads_nothing_heavy(tmp_path: Path) -> None:
    info = tmp_path / "lorafleet-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lorafleet\nVersion: 0.1.0\n")
    groups = "jobs = lorafleet_jobs.cli.commands:register\nserve = lorafleet_serve.commands:register\n"
    (info / "entry_points.txt").write_text(f"[lorafleet.commands]\n{groups}")
    code = f"""
import json, sys
from lorafleet.cli import build_app, run
code = run(build_app(), ["--help"])
print()
print(json.dumps([code, [m for m in {HEAVY} if m in sys.modules]]))
"""
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "NO_COLOR": "1", "COLUMNS": "100"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(result.stdout.splitlines()[-1]) == [0, []]
    for command in ("init", "check", "plan", "submit", "status", "ls", "adapters", "serve", "demo"):
        assert f" {command} " in result.stdout
    assert "\x1b" not in result.stdout


def test_what_an_encoding_cannot_write_is_escaped_and_the_exit_code_stays(tmp_path: Path) -> None:
    (tmp_path / "nö").mkdir()
    (tmp_path / "m.yaml").write_text(
        "name: t\nbase: toy-sdxl\nsubjects:\n  - {name: one, images: nö, class: dog}\n", encoding="utf-8"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(
        [sys.executable, "-m", "lorafleet", "check", str(tmp_path / "m.yaml")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "n\\xf6" in ended.stdout


def test_the_table_of_commands_says_what_each_command_says_of_itself():
    """The help in the table is shown before a command is loaded; it must not drift from the command's own."""
    from lorafleet.commands.lazy import load
    from lorafleet.commands.table import ADAPTERS, BASES, DEMO, UI
    from lorafleet_jobs.cli.commands import COMMANDS as TRAINING
    from lorafleet_serve.commands import COMMANDS as SERVING

    for command in (DEMO, UI, *ADAPTERS, *BASES, *TRAINING, *SERVING):
        first_paragraph = load(command).help.split("\n\n")[0]
        assert " ".join(first_paragraph.split()) == command.help, command.name


@pytest.mark.parametrize("command", ["serve", "generate", "evaluate", "submit", "adapters export"])
def test_the_help_of_a_command_imports_neither_torch_nor_ray(command):
    code = f"""
import sys
from lorafleet.cli import build_app, run
run(build_app(), [*{command!r}.split(), "--help"])
sys.exit(any(name in sys.modules for name in ("torch", "ray", "diffusers")))
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
