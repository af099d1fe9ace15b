"""Every mistake in some data, and what is left of them: validated again and again, without what was wrong before.

So a mistake hides no other, and none is told that only follows from another. Knows pydantic's models; refuses to know
which keys there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from pydantic import ValidationError

from lorafleet.config.places import KeyPath, named
from lorafleet.config.strict import Mistake, Model, Raw, Spelling, mistakes

_ROUNDS = 50
Kept = Mapping[KeyPath, Sequence[int]]
"""For each list which of its items are left, by their index in the data as given."""


@dataclass(frozen=True)
class Settled(Generic[Model]):
    """What came of some data."""

    model: Model | None
    """Of what is right in them, with defaults elsewhere; None if that cannot be had."""
    mistakes: Sequence[Mistake]
    """With paths in the data as given."""
    kept: Kept = field(default_factory=dict)

    def at_home(self, path: KeyPath) -> KeyPath:
        """The path in the data as given of what is at `path` in the model."""
        return _at_home(path, self.kept)


def settle(
    model: type[Model],
    data: Mapping[str, Any],
    stand_in: Mapping[str, Any],
    broken: Collection[KeyPath] = (),
    raw: Raw | None = None,
    spelt: Spelling = named,
) -> Settled[Model]:
    """Validates, takes out what is wrong, and validates again, until nothing is wrong.

    `stand_in` has values for keys that must be there, `broken` are values of which nothing more is to be said, `raw`
    says how a value is written, and `spelt` writes paths.
    """
    removed, found = _Removed(set(broken)), list[Mistake]()
    whole, kept = _without(data, removed.paths)
    for _ in range(_ROUNDS):
        try:
            return Settled(model.model_validate(whole), found, kept)
        except ValidationError as problem:
            home = _Home(kept, raw, spelt)
            told = [replace(one, path=home(one.path)) for one in mistakes(problem, model, whole, home.named, home.raw)]
        before = set(removed.paths)
        for one in sorted(told, key=lambda one: one.kind != "unknown"):  # a misspelt key explains one that is missing
            if not removed.explains(one):
                found.append(one)
            removed.add(one, data)
        if removed.paths == before:
            break
        left, kept = _without(data, removed.paths)
        whole = {**stand_in, **left}
    return Settled(None, found)


@dataclass(frozen=True)
class _Home:
    """Paths and values as they were before anything was taken out."""

    kept: Kept
    written: Raw | None
    spelt: Spelling

    def __call__(self, path: Sequence[int | str]) -> KeyPath:
        return _at_home(path, self.kept)

    def named(self, path: Sequence[int | str]) -> str:
        return self.spelt(self(path))

    def raw(self, path: KeyPath) -> str | None:
        return self.written(self(path)) if self.written is not None else None


@dataclass
class _Removed:
    """What is taken out, by its path in the data as given."""

    paths: set[KeyPath]
    meant: dict[KeyPath, set[str]] = field(default_factory=dict)
    """For each mapping the keys that unknown ones were probably meant to be."""

    def add(self, mistake: Mistake, data: Mapping[str, Any]) -> None:
        """Takes out what a mistake is about; where a whole mapping is wrong, the keys that it names."""
        path, parent = mistake.path, mistake.path[:-1]
        if not path:
            self.paths |= {(key,) for key in data if mentions(mistake.message, key)}
        else:
            self.paths.add(parent if mistake.kind == "missing" and parent else path)
        if mistake.near is not None:
            self.meant.setdefault(parent, set()).add(mistake.near)

    def explains(self, mistake: Mistake) -> bool:
        """Whether something is wrong only because of what was taken out, or because a key is misspelt."""
        path = mistake.path
        if any(path[:i] in self.paths for i in range(1, len(path) + 1)):
            return True
        if mistake.kind == "missing":
            return str(path[-1]) in self.meant.get(path[:-1], ())
        below = {str(one[len(path)]) for one in self.paths if len(one) > len(path) and one[: len(path)] == path}
        if mistake.kind == "keys":
            return any(mentions(mistake.message, key) for key in below | self.meant.get(path, set()))
        return bool(below)


def _without(data: Any, gone: Collection[KeyPath]) -> tuple[Any, dict[KeyPath, list[int]]]:
    """The data but for some paths, and what is left of each list."""
    kept: dict[KeyPath, list[int]] = {}

    def left(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            return {key: left(inner, (*path, key)) for key, inner in value.items() if (*path, key) not in gone}
        if isinstance(value, list):
            kept[path] = [i for i in range(len(value)) if (*path, i) not in gone]
            return [left(value[i], (*path, i)) for i in kept[path]]
        return value

    return left(data, ()), kept


def _at_home(path: Sequence[int | str], kept: Kept) -> KeyPath:
    home: KeyPath = ()
    for part in path:
        there = kept.get(home, ()) if isinstance(part, int) else ()
        home = (*home, there[part] if isinstance(part, int) and part < len(there) else part)
    return home


def mentions(message: str, key: object) -> bool:
    """Whether a message names a key."""
    return re.search(rf"(?<!\w){re.escape(str(key))}(?!\w)", message) is not None
