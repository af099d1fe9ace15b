"""Output of commands: data on stdout, everything else on stderr. Knows streams; refuses to know what the texts mean.

Rich leaves colour out where the stream is no terminal, and under `NO_COLOR`.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console

from lorafleet.config.strict import Strict

out = Console(soft_wrap=True, highlight=False)
"""Data for people: tables and resolved configurations."""
err = Console(stderr=True, soft_wrap=True, highlight=False)
"""Progress, notes and errors."""


def escape_unwritable() -> None:
    """Makes stdout and stderr escape what their encoding cannot write, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(document: Mapping[str, Any] | Strict) -> None:
    """Writes one JSON document to stdout; NaN and infinity raise ValueError, because JSON has neither."""
    data = document.model_dump(mode="json") if isinstance(document, Strict) else document
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def one_line(text: str) -> str:
    """The text on one line, with everything that could move a terminal's cursor escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.splitlines()))


def working(text: str) -> AbstractContextManager[object]:
    """Shows on a terminal, for as long as the block lasts, that the command is at work; elsewhere nothing."""
    return err.status(one_line(text)) if err.is_terminal else nullcontext()


def note(text: str, label: str = "note", style: str = "yellow") -> None:
    """Writes one labelled line to stderr."""
    err.print(f"[{style}]{label}:[/{style}] ", end="")
    err.print(one_line(text), markup=False)
