"""Tables of captions as they are written, `metadata.jsonl`, `.csv`, `.tsv`, `.json`: rows of a file and a caption.

Knows formats: which column is which, delimiters, quotes. Refuses to know which files there are; what a row names, and
whether its caption can be used, is not judged here.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from lorafleet_jobs.dataset.findings import Finding, Level

FILE_COLUMN = "file_name"
CAPTION_COLUMNS = ("prompt", "caption", "text")
"""The first of these that is there is the caption, where the manifest names no other."""
_TAGS = "tags"
"""Beside an image: a list of words, where there is no caption."""
_FILE_ALIASES = ("file_name", "filename", "file", "image", "path", "image_path", "file_path", "image_file", "filepath")
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?(?:\r\n?|\n)', re.IGNORECASE)
"""Excel's own first line."""


@dataclass(frozen=True)
class CaptionRow:
    """One line."""

    line: int
    file: object
    caption: object
    """None where the row gives none."""


@dataclass
class Table:
    """What a table says, and what was wrong on the way."""

    name: str
    rows: list[CaptionRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, id: str, level: Level, message: str) -> None:  # noqa: A002
        """Notes a finding about this file."""
        self.findings.append(Finding(id=id, level=level, message=message, file=self.name))

    @property
    def is_sound(self) -> bool:
        """Whether there is no error in it."""
        return not any(finding.level == "error" for finding in self.findings)


def read_table(name: str, text: str, column: str, is_image: Callable[[str], bool]) -> Table:
    """The rows of a table by its suffix; `column` holds the captions, `is_image` says what a file of the folder is."""
    table = Table(name)
    suffix = name.rpartition(".")[2].lower()
    if suffix == "jsonl":
        numbered = list(_json_lines(table, text))
    elif suffix == "json":
        numbered = list(_json_document(table, text))
    else:
        numbered = list(_csv_rows(table, text, column, is_image))
    columns = list(dict.fromkeys(key for _, row in numbered for key in row))
    chosen = _choose(table, columns, column) if columns else None
    if chosen is not None:
        table.rows = [CaptionRow(line, row.get(chosen[0]), row.get(chosen[1])) for line, row in numbered]
        doubles = [key for key in columns if key not in chosen and _plain(key) in CAPTION_COLUMNS]
        if doubles and _plain(chosen[1]) in CAPTION_COLUMNS:
            others = ", ".join(map(str, doubles))
            message = f"{name} has several columns of captions; {chosen[1]!r} is used, not {others}; "
            table.add("D030", "warn", f"{message}set caption_column to choose another")
        else:
            doubles = []
        if unused := [str(key) or "(unnamed)" for key in columns if key not in (*chosen, *doubles)]:
            table.add("D030", "info", f"{name} has columns that are not used: {', '.join(unused)}")
    return table


def caption_of(document: object, column: str) -> tuple[str | None, list[str]]:
    """The caption in one image's JSON and the keys beside it; None where there is none.

    Where there are only tags, they are the caption, with commas between them.
    """
    if isinstance(document, str):
        return document, []
    if not isinstance(document, dict):
        return None, []
    said = {key: value for key, value in document.items() if isinstance(value, str) and _plain(key) != _TAGS}
    tags = {key: _tags(value) for key, value in document.items() if _plain(key) == _TAGS}
    key = caption_column(said, column)
    if (key is None or not said[key].strip()) and _plain(column) in (*CAPTION_COLUMNS, _TAGS):
        key = next((one for one in tags if tags[one]), key)
    if key is None:
        return None, []
    return {**said, **tags}[key], [str(one) for one in document if one != key]


def caption_column(columns: Iterable[Any], column: str) -> Any | None:
    """Which of the columns holds captions, whatever the case of its letters."""
    columns_there = list(columns)
    for wanted in dict.fromkeys((column, *(CAPTION_COLUMNS if column in CAPTION_COLUMNS else ()))):
        found = [key for key in columns_there if key == wanted] or [
            key for key in columns_there if _plain(key) == _plain(wanted)
        ]
        if found:
            return found[0]
    return None


def _choose(table: Table, columns: Sequence[Any], column: str) -> tuple[Any, Any] | None:
    """The columns of file names and of captions; None, and an error, if one is missing."""
    file, caption = _columns(columns, column)
    missing, remedy = (FILE_COLUMN, "add it") if file is None else (column, "set caption_column")
    if file is None or caption is None:
        shown = ", ".join(map(str, columns))
        table.add("D021", "error", f"{table.name} has no column {missing!r}, only {shown}; {remedy}")
        return None
    return file, caption


def _columns(columns: Sequence[Any], column: str) -> tuple[Any | None, Any | None]:
    file = next((key for name in _FILE_ALIASES for key in columns if _plain(key) == name), None)
    rest = [key for key in columns if key != file]
    caption = caption_column(rest, column)
    if caption is None and column in CAPTION_COLUMNS and len(rest) == 1:
        caption = rest[0]
    return file, caption


def _tags(value: object) -> str:
    """Tags as one line; "" if they are neither words nor a line of them."""
    words = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return ", ".join(words) if all(isinstance(word, str) for word in words) else ""


def _plain(key: object) -> str:
    return re.sub(r"[\s-]+", "_", str(key).strip().casefold())


def _json_lines(table: Table, text: str) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    for line, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw, object_pairs_hook=_once)
        except (ValueError, RecursionError) as problem:
            table.add("D022", "error", f"{table.name} line {line} is not JSON ({problem}); write one object a line")
            continue
        if isinstance(row, dict):
            yield line, row
        else:
            table.add("D022", "error", f"{table.name} line {line} is not a JSON object; write one object a line")


def _json_document(table: Table, text: str) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """A list of objects with a file name each, or captions by file name; the number of an entry counts as its line."""
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        table.add("D022", "error", f"{table.name} is not JSON ({problem}); correct it")
        return
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        yield from enumerate(document, start=1)
    elif isinstance(document, dict) and all(isinstance(row, str) for row in document.values()):
        for line, (key, caption) in enumerate(document.items(), start=1):
            yield line, {FILE_COLUMN: key, CAPTION_COLUMNS[0]: caption}
    elif isinstance(document, dict) and all(isinstance(row, dict) for row in document.values()):
        for line, (key, row) in enumerate(document.items(), start=1):
            yield line, {FILE_COLUMN: key, **row}
    else:
        message = f"{table.name} is neither a list of objects nor captions by file name; write one of them"
        table.add("D022", "error", message)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} twice in one object")
    return found


def _csv_rows(
    table: Table, text: str, column: str, is_image: Callable[[str], bool]
) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    delimiter, offset = _delimiter(text), 0
    if match := _SEPARATOR_LINE.match(text):
        text, delimiter, offset = text[match.end() :], match[1], 1
    rows = iter(_records(table, text, delimiter, offset, is_image))
    _, header = next(rows, (0, []))
    header = [cell.strip() for cell in header]
    while header and not header[-1]:
        header.pop()
    if any(is_image(cell) for cell in header):
        table.add("D021", "error", f"{table.name} has no line of column names; begin it with file_name,prompt")
        return
    if twice := next((cell for i, cell in enumerate(header) if cell in header[:i]), None):
        table.add("D021", "error", f"{table.name} has two columns {twice!r}; rename one")
        return
    caption_is_last = header[-1:] == [_columns(header, column)[1]]
    joined: list[int] = []
    for line, cells in rows:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) > len(header) and not caption_is_last:
            message = f"{table.name} line {line} has {len(cells)} fields, the column names are {len(header)}; "
            table.add("D022", "error", f"{message}put what holds a {delimiter!r} in quotes")
            continue
        if len(cells) > len(header):
            joined.append(line)
            cells[len(header) - 1 :] = [delimiter.join(cells[len(header) - 1 :])]
        yield line, dict(zip(header, cells, strict=False))
    if joined:
        message = f"{table.name} {lines(joined)}: a caption with a {delimiter!r} that is not in quotes was read up to "
        table.add("D031", "warn", f"{message}the end of its line; put such captions in quotes")


def _delimiter(text: str) -> str:
    """What stands between the column names: the character by which one of them is that of the files."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    for one in _DELIMITERS:
        cells = [_plain(cell.strip().strip('"')) for cell in header.split(one)]
        if len(cells) > 1 and any(name in cells for name in _FILE_ALIASES):
            return one
    return ","


def _records(
    table: Table, text: str, delimiter: str, offset: int, is_image: Callable[[str], bool]
) -> Iterator[tuple[int, list[str]]]:
    """The lines with anything on them; a quote that is not closed where it should be ends the reading with an error."""
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1 + offset
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            described = "a quote that is opened there is not closed" if "end of data" in str(problem) else problem
            table.add("D022", "error", f"{table.name} line {line} is not CSV ({described}); correct it")
            return
        inner = [part.split(delimiter)[0].strip() for cell in cells for part in cell.split("\n")[1:]]
        if any(is_image(name) for name in inner):
            message = f"{table.name} line {line}: a quote that is opened there runs over the lines below; close it"
            table.add("D022", "error", message)
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def lines(numbers: Sequence[int]) -> str:
    """Line numbers in words, runs of them as one.

    >>> lines([2, 4, 5, 6])
    'lines 2, 4-6'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    described = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"line{'s' * (len(numbers) > 1)} {described}"
