"""From a YAML file to a manifest. Knows YAML and its traps; refuses to know what the keys mean.

Stricter than YAML: no key twice, no aliases (a few lines of them can stand for gigabytes), at most 1 MiB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lorafleet.config.manifest import Manifest
from lorafleet.config.strict import parse
from lorafleet.errors import ManifestError

MAX_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """Plain YAML values, each key once, no aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            where = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read; write the value out", problem_mark=where)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {name!r} is already on line {seen[name]}; keep one of them",
                    problem_mark=key.start_mark,
                )
            seen[name] = line
        return super().construct_mapping(node, deep)


def load_manifest(path: Path) -> Manifest:
    """Reads and validates a manifest; ManifestError names the file, the line or key, and what to do."""
    text = _read(path)
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        raise ManifestError(f"{path}:{line}: not valid YAML: {problem.problem or problem.context}") from None
    except yaml.YAMLError as problem:
        raise ManifestError(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from None
    except RecursionError:
        raise ManifestError(f"{path}: nested too deeply; a manifest needs at most five levels") from None
    except ValueError as problem:  # a date or number that YAML recognises and Python cannot hold
        raise ManifestError(f"{path}: a value cannot be read ({problem}); put it in quotes") from None
    if data is None:
        raise ManifestError(f"{path} is empty; it needs at least name and subjects")
    if not isinstance(data, dict):
        kind = {"list": "a list", "str": "plain text"}.get(type(data).__name__, f"one {type(data).__name__}")
        raise ManifestError(f"{path} holds {kind}; a manifest is a mapping with at least name and subjects")
    return parse(Manifest, data, str(path))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; give the path of a manifest") from None
    except IsADirectoryError:
        raise ManifestError(f"{path} is a folder; give the path of a manifest (a YAML file)") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ManifestError(f"{path} cannot be read: {reason}; check the path and its permissions") from None
    if len(data) > MAX_BYTES:
        raise ManifestError(f"{path} is larger than {MAX_BYTES} bytes; a manifest names folders, it does not hold data")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise ManifestError(
            f"{path}:{line}: byte {data[problem.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from None
