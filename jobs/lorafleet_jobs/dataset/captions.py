"""Captions of a folder's images: a text file beside each, else a table of them.

A file beside an image wins over a table's line. Whatever looks like a caption and does not become one is told by name;
an image that nothing names has no caption, and the subject's instance prompt stands in. Knows files and their formats;
refuses to know models.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorafleet_jobs.dataset.caption_tables import CaptionRow, Table, caption_of, lines, read_table
from lorafleet_jobs.dataset.findings import Finding, Level, reserved_text, some
from lorafleet_jobs.dataset.image_names import ImageNames
from lorafleet_jobs.dataset.text_files import UnusableTextError, read_text

TABLES = ("metadata.jsonl", "metadata.csv")
"""Tables of the common layout: what is wrong with one of them keeps the subject from training."""
OTHER_TABLES = ("metadata.tsv", "metadata.json", "captions.jsonl", "captions.csv", "captions.tsv", "captions.json")
"""Read where they can be, else told."""
BESIDE = (".txt", ".caption", ".json")
"""Endings of a file beside an image, the first one that is there wins."""
UNREAD = (".tags", ".cap", ".text", ".md", ".rtf", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".jsonl")
"""Other endings by which a file beside an image may be a caption."""
_NOTES = frozenset({"readme", "license", "licence", "notes", "credits", "changelog", "requirements"})


@dataclass
class Captions:
    """Captions by image file name, and what was wrong on the way."""

    by_file: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Of each of them: the file, and its line in a table."""
    findings: list[Finding] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    """That were read, or are named by a finding."""

    def add(self, id: str, level: Level, message: str, file: str | None = None) -> None:  # noqa: A002
        """Notes a finding."""
        self.findings.append(Finding(id=id, level=level, message=message, file=file))


@dataclass(frozen=True)
class _Caption:
    """A caption as it was read, and from where."""

    text: str
    file: str
    line: int | None = None
    """Of a table."""
    several_lines: bool = False

    @property
    def source(self) -> str:
        """Where it is written."""
        return self.file if self.line is None else f"{self.file} line {self.line}"


def read_captions(
    folder: Path, images: Sequence[str], others: Sequence[str], column: str, adapters: Collection[str] = ()
) -> Captions:
    """The captions of the named images in a folder, from among its `others`.

    `column` is the captions' key in a table, `adapters` the submission's, whose triggers no caption may hold.
    """
    reader = _Reader(folder, ImageNames(folder, images), column, Captions())
    tables = _tables(others)
    beside = reader.beside([name for name in others if name not in tables])
    listed = reader.table(tables)
    if lost := [image for image, caption in listed.items() if caption.text and _differs(beside.get(image), caption)]:
        reader.captions.add(
            "D030", "warn", f"{tables[0]}: its captions of {some(lost)} are not used, each has a file of its own"
        )
    reader.tell_guessed()
    by_image = {**beside, **listed, **{image: caption for image, caption in beside.items() if caption.text}}
    _keep(reader.captions, {image: by_image[image] for image in images if image in by_image}, adapters)
    return reader.captions


def _differs(first: _Caption | None, second: _Caption) -> bool:
    """Whether taking the first would lose what the second says."""
    return first is not None and bool(first.text) and first.text != second.text


def _tables(others: Sequence[str]) -> list[str]:
    """Of all files the tables, best first."""
    table_names = (*TABLES, *OTHER_TABLES)
    return sorted(
        (name for name in others if name.lower() in table_names), key=lambda name: table_names.index(name.lower())
    )


def _keep(captions: Captions, by_image: dict[str, _Caption], adapters: Collection[str]) -> None:
    """Takes over what can be trained, and tells what cannot or was joined."""
    for image, caption in by_image.items():
        if (reserved := reserved_text(caption.text, adapters)) is not None:
            remedy = "write TOK where the subject is named" if reserved.startswith("<") else "remove it"
            message = f"{caption.source}: the caption of {image} holds {reserved!r}, which is reserved; {remedy}"
            captions.add("D014", "error", message, caption.file)
        elif caption.text:
            captions.by_file[image], captions.sources[image] = caption.text, caption.source
    if empty := [f"{image} ({caption.source})" for image, caption in by_image.items() if not caption.text]:
        captions.add("D010", "info", f"the captions of {some(empty)} are empty; the instance prompt stands in")
    if joined := [
        f"{image} ({caption.source})" for image, caption in by_image.items() if caption.several_lines and caption.text
    ]:
        message = f"{some(joined)}: a caption of several lines was joined to one; keep one line if it was several"
        captions.add("D031", "info", message)


@dataclass
class _Reader:
    folder: Path
    names: ImageNames
    column: str
    captions: Captions
    guessed: list[str] = field(default_factory=list)

    def beside(self, files: Sequence[str]) -> dict[str, _Caption]:
        """Captions in files of their own, by image."""
        chosen: dict[str, _Caption] = {}
        unread: list[str] = []
        strangers: list[str] = []
        for name in sorted(files, key=_rank):
            suffix = Path(name).suffix.lower()
            images = self.names.beside(name[: len(name) - len(suffix)])
            if suffix not in BESIDE or (suffix == ".json" and not images):
                unread += [name] if images and suffix in UNREAD else []
            elif not images:
                strangers += [name] if Path(name).stem.lower() not in _NOTES else []
            elif (caption := self._of_file(name)) is not None:
                self._choose(chosen, images, caption)
            elif suffix == ".json":
                unread.append(name)
        self._tell(unread, strangers)
        return chosen

    def _choose(self, chosen: dict[str, _Caption], images: Sequence[str], caption: _Caption) -> None:
        for image in images:
            if not (image in chosen and chosen[image].text):
                chosen[image] = caption
            elif caption.text and _differs(chosen[image], caption):
                message = f"{image} has two captions: {chosen[image].file} is used, {caption.file} is not; remove one"
                self.captions.add("D030", "warn", message, caption.file)

    def _of_file(self, name: str) -> _Caption | None:
        """What one file says; None if it cannot be read, which a finding says but for JSON."""
        text = self._text(name)
        if text is None:
            return None
        if name.lower().endswith(".json"):
            try:
                caption, rest = caption_of(json.loads(text), self.column)
            except (ValueError, RecursionError):
                return None
            if caption is None:
                return None
            if rest:
                self.captions.add("D030", "info", f"{name} has keys that are not used: {', '.join(rest)}", name)
            text = caption
        return _said(text, name)

    def _tell(self, unread: Sequence[str], strangers: Sequence[str]) -> None:
        self.captions.files |= {*unread, *strangers}
        if unread:
            verb = "files look like captions and are" if len(unread) > 1 else "file looks like a caption and is"
            message = f"{len(unread)} {verb} not read: {some(unread)}; write captions as name.txt beside name.jpg"
            self.captions.add("D030", "warn", message, unread[0])
        if strangers:
            verb = "belong to no image and are" if len(strangers) > 1 else "belongs to no image and is"
            message = f"{some(strangers)} {verb} not used; name a caption after its image, a.txt for a.jpg"
            self.captions.add("D030", "warn", message, strangers[0])

    def tell_guessed(self) -> None:
        """Notes the files whose encoding was guessed."""
        if self.guessed:
            message = f"{some(self.guessed)}: not UTF-8, read as Windows-1252; save as UTF-8 if letters are wrong"
            self.captions.add("D031", "warn", message, self.guessed[0])

    def _text(self, name: str) -> str | None:
        self.captions.files.add(name)
        try:
            text = read_text(self.folder, name)
        except UnusableTextError as problem:
            if name.lower() in OTHER_TABLES:
                message = f"{name} looks like captions and is not read: it {problem}"
                self.captions.add("D030", "warn", message, name)
            elif name.lower() in TABLES or not name.lower().endswith(".json"):  # a .json is told with its likes
                self.captions.add(problem.id, "error", f"{name} {problem}", name)
            return None
        if text.guessed:
            self.guessed.append(name)
        return text.content

    def table(self, tables: Sequence[str]) -> dict[str, _Caption]:
        """Captions by image in the best of the tables; the others are told."""
        self.captions.files |= set(tables)
        if len(tables) > 1:
            message = f"{', '.join(tables[1:])} not read beside {tables[0]}; put all captions in one"
            self.captions.add("D030", "warn", message, tables[1])
        if not tables or (text := self._text(tables[0])) is None:
            return {}
        table = read_table(tables[0], text, self.column, self.names.is_image)
        listed = self._rows(table)
        if table.is_sound or tables[0].lower() in TABLES:
            self.captions.findings += table.findings
            return listed
        problem = next(finding for finding in table.findings if finding.level == "error")
        message = f"{tables[0]} looks like captions and is not read: {problem.message}"
        self.captions.add("D030", "warn", message, tables[0])
        return {}

    def _rows(self, table: Table) -> dict[str, _Caption]:
        listed: dict[str, _Caption] = {}
        strangers: list[CaptionRow] = []
        for row in table.rows:
            image = self.names.named(row.file) if isinstance(row.file, str) else None
            if image is None:
                strangers.append(row)
            elif row.caption is not None and not isinstance(row.caption, str):
                message = f"{table.name} line {row.line}: the caption is {row.caption!r}; give text"
                table.add("D022", "error", message)
            else:
                caption = _said(row.caption or "", table.name, row.line)
                first = listed.get(image)
                if first is not None and caption.text and _differs(first, caption):
                    message = f"{table.name} {lines([first.line or 0, row.line])} give {image} two captions; "
                    table.add("D030", "warn", f"{message}line {first.line}'s is not used, remove one")
                if first is None or caption.text:
                    listed[image] = caption
        self._about_strangers(table, strangers)
        return listed

    def _about_strangers(self, table: Table, strangers: Sequence[CaptionRow]) -> None:
        if not strangers:
            return
        first = strangers[0]
        near = self.names.near(first.file) if isinstance(first.file, str) else None
        hint = f"did you mean {near!r}?" if near else "write file names as they are in this folder"
        if len(strangers) == len(table.rows):
            message = (
                f"no line of {table.name} names an image of this folder (line {first.line}: {first.file!r}); {hint}"
            )
            table.add("D022", "error", message)
            return
        files = some([repr(row.file) for row in strangers])
        which = "which is no image" if len(strangers) == 1 else "which are no images"
        ignored = "the line is ignored" if len(strangers) == 1 else "the lines are ignored"
        verb = "names" if len(strangers) == 1 else "name"
        numbers = lines([row.line for row in strangers])
        message = f"{table.name} {numbers} {verb} {files}, {which} of this folder; {ignored}, {hint}"
        table.add("D022", "warn", message)


def _said(text: str, file: str, line: int | None = None) -> _Caption:
    written = [one for one in text.splitlines() if one.strip()]
    return _Caption(" ".join(text.split()), file, line, len(written) > 1)


def _rank(name: str) -> tuple[int, bool, int, str]:
    """The order in which files beside an image are asked: by ending, as usually written, `a.txt` before `a.jpg.txt`."""
    suffix = Path(name).suffix
    rank = BESIDE.index(suffix.lower()) if suffix.lower() in BESIDE else len(BESIDE)
    return (rank, suffix != suffix.lower(), len(Path(name).suffixes), name)
