"""YAML read with the place of every key and value. Knows YAML and its traps; refuses to know what the keys mean.

Stricter than YAML: no key twice, no aliases (a few lines of them can stand for gigabytes), no tags. A mistake after
which reading can go on is noted and passed by, so that one reading finds all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from lorafleet.config.places import KeyPath, Place, Problems
from lorafleet.config.yaml_mending import hint, mended

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")}
_AS_WRITTEN = ("tag:yaml.org,2002:value", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
"""As keys these are words: `no:` and `on:` are names of somebody's, not truth values."""
_WINDOWS = re.compile(r'"([A-Za-z]:)?\\')
_MOST_MENDED = 50


@dataclass
class Document:
    """The values of a YAML file, where each of them stands, and what is wrong with the file itself."""

    file: str
    data: Any = None
    problems: Problems = field(default_factory=Problems)
    broken: set[KeyPath] = field(default_factory=set)
    """Values that could not be read, of which nothing more is to be said."""
    raw: dict[KeyPath, str] = field(default_factory=dict)
    """Values without quotes as they are written, such as `no` where YAML reads false."""
    _keys: dict[KeyPath, Place] = field(default_factory=dict)
    _values: dict[KeyPath, Place] = field(default_factory=dict)
    _mappings: set[KeyPath] = field(default_factory=set)

    def place(self, path: KeyPath, key: bool = False) -> Place:
        """Where a value, or with `key` its key, stands; for what is not there, where it would belong."""
        for length in range(len(path), -1, -1):
            wanted = path[:length]
            if key and wanted in self._keys:
                return self._keys[wanted]
            if wanted in self._values:
                inside = length < len(path) and wanted in self._mappings
                return self._keys.get(wanted, self._values[wanted]) if inside else self._values[wanted]
        return Place(self.file)

    def wrap(self, key: str) -> None:
        """Makes a list of one of the value of a key of the file."""

        def moved(path: KeyPath) -> KeyPath:
            return (key, 0, *path[1:]) if path[:1] == (key,) else path

        self.data[key] = [self.data[key]]
        self.broken = {moved(path) for path in self.broken}
        self.raw = {moved(path): value for path, value in self.raw.items()}
        self._mappings = {moved(path) for path in self._mappings}
        self._values |= {moved(path): place for path, place in self._values.items()}
        self._keys |= {moved(path): place for path, place in self._keys.items()}


class _Loader(yaml.SafeLoader):
    """Composes a tree of nodes; an alias is noted and becomes null."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.aliases: list[yaml.Mark] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            self.aliases.append(event.start_mark)
            return yaml.ScalarNode("alias", "", event.start_mark, event.end_mark)
        return super().compose_node(parent, index)


def read_document(text: str, file: str) -> Document:
    """Reads YAML; what is wrong is among the document's problems, and its data are whatever could be read."""
    document = Document(file)
    try:
        node = _compose(text, document)
        if node is not None:
            document.data = _Builder(document).value(node, ())
    except RecursionError:
        document.problems.add(Place(file), "nested too deeply; a manifest needs at most five levels")
    return document


def _compose(text: str, document: Document) -> yaml.Node | None:
    """The tree of nodes, after mending what can be mended; None if there is none."""
    tabbed = False
    for _ in range(_MOST_MENDED):
        try:
            loader = _Loader(text)
            node: yaml.Node | None = loader.get_single_node()
        except yaml.reader.ReaderError as problem:
            before = text[: problem.position]
            where = Place(document.file, before.count("\n") + 1, problem.position - before.rfind("\n"))
            code = problem.character if isinstance(problem.character, int) else 0
            message = f"not valid YAML: the character U+{code:04X} cannot stand in a text file; remove it"
            document.problems.add(where, message)
            return None
        except yaml.MarkedYAMLError as problem:
            mend = mended(text, problem)
            if mend is None:
                if not tabbed:  # else this may be what became of the tabs
                    _note_syntax(problem, document)
                return None
            text = mend.text
            tabbed = tabbed or mend.tabs
            for line, column, message in mend.told:
                document.problems.add(Place(document.file, line, column), message)
        else:
            for mark in loader.aliases:
                document.problems.add(
                    _place(document.file, mark), "aliases (*name) are not read; write the value out"
                )  # fmt: skip
            return node
    return None


def _note_syntax(problem: yaml.MarkedYAMLError, document: Document) -> None:
    mark = problem.problem_mark or problem.context_mark
    where = _place(document.file, mark) if mark else Place(document.file, 1, 1)
    message = " ".join((problem.problem or problem.context or "it cannot be read").split())
    document.problems.add(where, f"not valid YAML: {message}; {hint(message)}")


class _Builder:
    """Makes values of nodes, and notes where each of them stands."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.document._values[path] = _place(self.document.file, node.start_mark)
        if node.tag == "alias":
            return self._break(path)
        if node.tag not in _TAGS and node.tag not in _AS_WRITTEN:
            return self._break(path, node, f"tags ({node.tag.rpartition(':')[2]}) are not read; write the plain value")
        if isinstance(node, yaml.MappingNode):
            self.document._mappings.add(path)
            return dict(self._pairs(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else self._break(path)

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[Any, Any]]:
        first: dict[Any, int] = {}
        for key_node, value_node in node.value:
            where = _place(self.document.file, key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "alias":
                self.document.problems.add(where, "a key is one word; write key: value")
                continue
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.document.problems.add(where, "<< is not read; write the keys out")
                continue
            key = key_node.value if key_node.tag in _AS_WRITTEN else self._scalar(key_node, (*path, key_node.value))
            if key in first:
                message = f"key {str(key)!r} is already on line {first[key]}; keep one of them"
                self.document.problems.add(where, message)
                continue
            first[key] = where.line
            inner = (*path, key)
            self.document._keys[inner] = where
            yield key, self.value(value_node, inner)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag in ("tag:yaml.org,2002:value", "tag:yaml.org,2002:str"):
            if node.style == '"' and (message := _swallowed(node)) is not None:
                return self._break(path, node, message)
            return node.value
        if node.style is None:
            self.document.raw[path] = node.value
        try:
            return self._scalars.construct_object(node)
        except (ValueError, OverflowError) as problem:  # a date or number that YAML recognises and Python cannot hold
            return self._break(path, node, f"a value cannot be read ({problem}); put it in quotes")

    def _break(self, path: KeyPath, node: yaml.Node | None = None, message: str = "") -> None:
        self.document.broken.add(path)
        if node is not None:
            self.document.problems.add(_place(self.document.file, node.start_mark), message)


def _swallowed(node: yaml.ScalarNode) -> str | None:
    """That a path's backslashes were read as escapes; None if they were not, or if it is no path."""
    value: str = node.value
    control = next((c for c in value if not c.isprintable() and ord(c) < 32), None)
    if control is None or (control in "\n\t" and " " in value):
        return None
    buffer = node.start_mark.buffer
    raw = buffer[node.start_mark.pointer : node.end_mark.pointer] if buffer is not None else ""
    if "\\" not in raw and not _WINDOWS.match(raw):
        return None
    escape = ascii(control)[1:-1]
    return (
        f"in double quotes {escape} is an escape, not two characters of a path; "
        "put the path in single quotes, or write / instead"
    )


def _place(file: str, mark: yaml.Mark) -> Place:
    return Place(file, mark.line + 1, mark.column + 1)
