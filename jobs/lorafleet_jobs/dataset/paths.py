"""Paths that a user wrote: `~` and variables, Windows' own spelling, links out of a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expand(written: str) -> str:
    """A path with `~` and `$VARIABLES` replaced; a variable that is not set stays as it is written."""
    return os.path.expandvars(os.path.expanduser(written))


def absolute(folder: Path, written: str) -> Path:
    """A path that starts at `folder`, links not followed; a name that is there as it is written means itself."""
    literal = os.path.abspath(folder / written)
    return Path(literal if os.path.exists(literal) else os.path.abspath(folder / expand(written)))


def is_windows_path(written: str) -> bool:
    """Whether a path is spelt as on Windows, from a drive or a server's name on."""
    return os.name != "nt" and _WINDOWS.match(written) is not None


def unset_variable(written: str) -> str | None:
    """The first variable of a path that is not set."""
    names = (match[1].strip("{}") for match in _VARIABLE.finditer(written))
    return next((name for name in names if name not in os.environ), None)


def leaves(folder: Path, file: Path) -> bool:
    """Whether a file, its links followed, lies outside the folder."""
    return not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))
