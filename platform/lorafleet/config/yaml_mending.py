"""Mistakes in YAML itself that can be mended, so that reading goes on and finds the others; and hints for the rest.

Knows PyYAML's complaints; refuses to know what the file is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

_TAB_IN_INDENT = re.compile(r"^[ \t]*\t[ \t]*(?=\S)")
_HINTS = {
    "mapping values are not allowed": "put a value that holds ': ' in quotes; keys of a mapping share a column",
    "expected ',' or": "close the bracket, and put values that hold commas, brackets or colons in quotes",
    "expected <block end>": "begin the lines of one list or mapping in one column; put quotes around the whole value",
    "expected '<document start>'": "begin all keys of the file in the first column",
    "could not find expected ':'": "write key: value",
    "unexpected end of stream": "close the quote",
    "but found another document": "a manifest is one document; remove the line ---",
    "undefined alias": "aliases (*name) are not read; write the value out",
    "found character '\\t'": "use spaces, not tabs",
    "that cannot start any token": "put the value in quotes",
}  # fmt: skip
"""What to do, by a piece of what PyYAML says."""


@dataclass(frozen=True)
class Mend:
    """A text with one kind of mistake less."""

    text: str
    told: tuple[tuple[int, int, str], ...]
    """Line and column, from 1, and what was wrong."""
    tabs: bool = False


def hint(message: str) -> str:
    """What to do about a complaint of PyYAML's."""
    return next((remedy for piece, remedy in _HINTS.items() if piece in message), "correct it there")


def mended(text: str, problem: yaml.MarkedYAMLError) -> Mend | None:
    """The text without the mistake, if it is tabs as indentation or a backslash in double quotes; else None."""
    mark, said = problem.problem_mark, problem.problem or ""
    if mark is None:
        return None
    if "escape" in said and "double-quoted" in (problem.context or ""):
        at = mark.index - (2 if said.startswith("expected escape sequence") else 1)
        return _backslash(text, at, problem.context_mark) if text[at : at + 1] == "\\" else None
    lines = text.split("\n")
    about_tabs = "'\\t'" in said or _TAB_IN_INDENT.match(lines[min(mark.line, len(lines) - 1)])
    return _tabs(text) if about_tabs and any(map(_TAB_IN_INDENT.match, lines)) else None


def _backslash(text: str, at: int, opening: yaml.Mark | None) -> Mend:
    """All backslashes of one string doubled."""
    start = opening.index if opening is not None else at
    closing = text.find('"', at)
    end = closing if closing >= 0 else len(text)
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    message = (
        f"in double quotes {text[at : at + 2]} is an escape that does not exist; "
        "put the path in single quotes, or write / instead"
    )
    return Mend(text[:start] + text[start:end].replace("\\", "\\\\") + text[end:], ((line, column, message),))


def _tabs(text: str) -> Mend:
    """Two spaces for each tab of an indentation; lines one below the other are told as one."""
    lines = text.split("\n")
    told = []
    for first, last in _runs([n for n, line in enumerate(lines) if _TAB_IN_INDENT.match(line)]):
        which = "this line is" if first == last else f"lines {first + 1} to {last + 1} are"
        told.append((first + 1, lines[first].index("\t") + 1, f"{which} indented with tabs; YAML takes spaces alone"))
    spaced = [_TAB_IN_INDENT.sub(lambda match: match[0].replace("\t", "  "), line) for line in lines]
    return Mend("\n".join(spaced), tuple((*where, f"{said}, so write two for each") for *where, said in told), True)  # type: ignore[misc]


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours."""
    start = None
    for i, number in enumerate(numbers):
        start = number if start is None else start
        if i + 1 == len(numbers) or numbers[i + 1] != number + 1:
            yield start, number
            start = None
