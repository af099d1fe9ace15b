"""Tables of subjects as people and spreadsheets write them: in each row a folder, a class, and if wanted more.

Knows columns, delimiters and lines. Refuses to know which folders there are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from pydantic import ValidationError

from lorafleet.config import SubjectSpec
from lorafleet.config.places import Place, Problems
from lorafleet.config.strict import mistakes
from lorafleet_jobs.dataset.text_files import UnusableTextError, decode_text

COLUMNS = {
    "images": ("images", "path", "folder"), "name": ("name", "subject"), "class": ("class",),
    "instance_prompt": ("instance_prompt", "prompt"), "caption_column": ("caption_column",), "preset": ("preset",),
}  # fmt: skip
"""What a column says, and how it may be headed, in any case of letters."""
MAX_BYTES = 4 * 2**20
_DELIMITERS = ";,\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
"""Excel's own first line."""
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How files of Excel and of LibreOffice begin."""
_KNOWN = {heading: column for column, headings in COLUMNS.items() for heading in headings}


@dataclass(frozen=True)
class TableRow:
    """One subject of a table."""

    place: Place
    spec: SubjectSpec
    """With a folder; what the row leaves empty is as the manifest's entry has it."""
    preset: str | None


def read_subject_table(path: Path, entry: SubjectSpec, named_at: Place, problems: Problems) -> list[TableRow]:
    """The rows of a table; `entry` is the manifest's that names it, at `named_at`. Mistakes go to `problems`."""
    text = _text(path, entry.table or "", named_at, problems)
    if text is None:
        return []
    before = len(problems.found)
    records = list(_records(path, text, problems))
    if not records:
        problems.add(Place(str(path)), "the table is empty; begin it with a line of columns, as in images,class,name")
        return []
    (line, header), *rows = records
    columns = _columns(header, Place(str(path), line), problems)
    if columns is None:
        return []
    if not rows and len(problems.found) == before:
        problems.add(Place(str(path), line), "there is no row below the columns; give a folder and a class in each")
    made = [_row(Place(str(path), line), cells, columns, entry, problems) for line, cells in rows]
    for line, cells in rows:
        if any(cells[len(header) :]):
            message = f"the row has {len(cells)} cells, the columns are {len(header)}; put what holds the delimiter in"
            problems.add(Place(str(path), line), f"{message} quotes")
    return [row for row in made if row is not None]


def _text(path: Path, written: str, named_at: Place, problems: Problems) -> str | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError):
        remedy = "paths are relative to the manifest; correct it"
        problems.add(named_at, f"from is {written!r}, and there is no such file that can be read; {remedy}")
        return None
    if data.startswith(_WORKBOOKS):
        problems.add(named_at, f"{written!r} is a workbook; save its sheet as CSV, and name that file")
    elif len(data) > MAX_BYTES:
        problems.add(named_at, f"{written!r} has over {MAX_BYTES} bytes; split it into several tables")
    else:
        try:
            return decode_text(data).content
        except UnusableTextError as problem:
            problems.add(Place(str(path)), f"the table {problem}")
    return None


def _records(path: Path, text: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Lines with anything on them, the column names first."""
    offset, delimiter = 0, _delimiter(text)
    if match := _SEPARATOR_LINE.match(text):
        text, delimiter, offset = text[match.end() :], match[1], 1
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1 + offset
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as problem:
            said = "a quote that is opened there is not closed" if "end of data" in str(problem) else str(problem)
            problems.add(Place(str(path), line), f"not CSV: {said}; correct the quotes")
            return
        if any(cells):
            yield line, cells


def _delimiter(text: str) -> str:
    """What stands between the column names: the character by which most of them are known."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(_DELIMITERS, key=lambda one: (_known(header.split(one)), header.count(one)))


def _columns(header: Sequence[str], where: Place, problems: Problems) -> Mapping[str, int] | None:
    """Which cell of a row says what; None if no row could be read."""
    found: dict[str, int] = {}
    for i, cell in enumerate(header):
        column = _KNOWN.get(_plain(cell))
        if column is None:
            if near := get_close_matches(_plain(cell), list(_KNOWN), n=1, cutoff=0.75):
                problems.add(where, f"column {cell!r} is not known; did you mean {near[0]!r}?")
        elif column in found:
            other = header[found[column]]
            problems.add(where, f"columns {other!r} and {cell!r} both say {column}; remove one of them")
        else:
            found[column] = i
    if "images" in found:
        return found
    problems.add(where, f"there is no column of folders among {', '.join(header)}; head it images, path or folder")
    return None


def _row(
    place: Place, cells: Sequence[str], columns: Mapping[str, int], entry: SubjectSpec, problems: Problems
) -> TableRow | None:
    said = {column: cells[i] for column, i in columns.items() if i < len(cells) and cells[i]}
    preset = said.pop("preset", None)
    if "images" not in said:
        problems.add(place, "the row names no folder; give one, or remove the row")
        return None
    inherited = {key: value for key, value in entry.model_dump(exclude_none=True).items() if key != "from"}
    try:
        return TableRow(place, SubjectSpec.model_validate({**inherited, **said}), preset)
    except ValidationError as problem:
        for mistake in mistakes(problem, SubjectSpec, said):
            problems.add(place, mistake.message)
    return None


def _known(cells: Sequence[str]) -> int:
    return sum(_plain(cell) in _KNOWN for cell in cells)


def _plain(heading: str) -> str:
    return re.sub(r"[\s-]+", "_", heading.strip().strip('"').strip().casefold())
