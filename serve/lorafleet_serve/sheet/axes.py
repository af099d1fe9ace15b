"""An XY sheet: any two of scale, adapter, sweep point, prompt, sampler, steps and seed against each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from lorafleet.errors import RequestError
from lorafleet_serve.sheet.candidates import Candidate, Found
from lorafleet_serve.sheet.cells import Block, Cell, Head, Shot, contestants_of, head_of, shown_prompt
from lorafleet_serve.sheet.votes import Contestant

TARGETS = ("adapter", "point")
"""Axes whose values are the targets themselves."""
FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "scale": ("scale", float),
    "sampler": ("scheduler", str),
    "steps": ("steps", int),
    "seed": ("seed", int),
}
"""Axes whose values are written out, each with the shot's field and how it is read."""
AXES = (*FIELDS, *TARGETS, "prompt")
FORM = "write it as in scale=0.4,0.7,1; an axis is one of " + ", ".join(AXES)
MOST_VALUES = 64


@dataclass(frozen=True)
class Value:
    """One row or column: its name and what it changes in a shot."""

    head: Head
    changes: dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """What varies along a side of the sheet."""

    name: str
    values: tuple[Value, ...]


def read_axis(text: str, found: Found, prompts: Sequence[str]) -> Axis:
    """Reads `scale=0.4,0.7,1`, `adapter`, `prompt` (those of --prompt), `prompt=one|another`; RequestError says how."""
    name, equals, tail = text.partition("=")
    name = name.strip()
    if name == "step":
        raise RequestError(
            "axis step: no snapshots are kept of a training, adapters are published once they are done; train points "
            "of different steps as a sweep (sweep: {steps: [100, 300]}) and compare those: --y point"
        )
    if name in TARGETS:
        if equals:
            raise RequestError(f"axis {text!r}: the adapters are the command's targets; write {name} alone")
        return Axis(name, tuple(_of_candidate(name, one, found) for one in found.candidates))
    if name == "prompt":
        texts = [part.strip() for part in tail.split("|")] if equals else list(prompts)
        return _checked(Axis(name, tuple(_of_prompt(one, found) for one in texts)), text)
    if name not in FIELDS or not equals:
        raise RequestError(f"axis {text!r} is none; {FORM}")
    field, read = FIELDS[name]
    try:
        values = [read(part.strip()) for part in tail.split(",")]
    except ValueError:
        raise RequestError(f"axis {text!r}: {name} takes numbers; {FORM}") from None
    return _checked(Axis(name, tuple(_of_field(name, field, value) for value in values)), text)


def xy_blocks(found: Found, x: Axis, y: Axis, prompts: Sequence[str], like: Shot) -> tuple[Block, ...]:
    """A block for each adapter, and each prompt, that no axis has; `like` gives all that does not vary.

    RequestError for two axes of one kind.
    """
    kinds = {"adapter" if axis.name in TARGETS else axis.name for axis in (x, y)}
    if len(kinds) < 2:
        raise RequestError(f"both axes are {x.name}; choose two different ones of {', '.join(AXES)}")
    adapters = [None] if "adapter" in kinds else list(found.candidates)
    texts = [like.prompt] if "prompt" in kinds else list(prompts)
    blocks = []
    for candidate, prompt in product(adapters, texts):
        shot = replace(like, prompt=prompt)
        shot = shot if candidate is None else replace(shot, candidate=candidate, of=candidate)
        parts = [candidate.label if candidate else "", "" if "prompt" in kinds else shown_prompt(prompt, found)]
        title = ": ".join(filter(None, parts)) or "all"
        cells = tuple(tuple(_cell(found, shot, x, across, y, down) for across in x.values) for down in y.values)
        heads = tuple(f"{value.head.text} {value.head.note}".strip() for value in x.values)
        blocks.append(Block(title, tuple(value.head for value in y.values), heads, cells))
    return tuple(blocks)


def _cell(found: Found, shot: Shot, x: Axis, across: Value, y: Axis, down: Value) -> Cell:
    shot = replace(shot, **across.changes, **down.changes)
    request, candidate = shot.request(), shot.candidate
    assert candidate is not None
    apart = (*TARGETS, "prompt", "seed")
    settings = [value.head.text for axis, value in ((x, across), (y, down)) if axis.name not in apart]
    contestant, group = contestants_of(found, candidate)
    among = f"{group}|{', '.join(settings)}|{shot.prompt}|{shot.seed}"
    if contestant is None and candidate.registered and settings:  # one adapter: its settings are what is voted on
        contestant = Contestant(adapter=candidate.label, settings=", ".join(settings))
        among = f"{shot.prompt}|{shot.seed}"
    said = ", ".join([*settings, f"seed {shot.seed}"])
    return Cell(f"{candidate.label}, {said}: {request.prompt}", request, None, candidate, contestant, among)


def _of_candidate(name: str, candidate: Candidate, found: Found) -> Value:
    head = head_of(candidate)
    alone = len({one.adapter.name for one in found.candidates}) == 1
    if name == "point" and candidate.point and alone:
        head = Head(candidate.point, candidate.label, head.mark)
    return Value(head, {"candidate": candidate, "of": candidate})


def _of_prompt(text: str, found: Found) -> Value:
    return Value(Head(shown_prompt(text, found)), {"prompt": text})


def _of_field(name: str, field: str, value: Any) -> Value:
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return Value(Head(shown if name == "sampler" else f"{name} {shown}"), {field: value})


def _checked(axis: Axis, text: str) -> Axis:
    names = [value.head.text for value in axis.values]
    if len(names) > MOST_VALUES:
        raise RequestError(f"axis {axis.name} has {len(names)} values; at most {MOST_VALUES} are shown")
    if "" in names or len(set(names)) < len(names):
        raise RequestError(f"axis {text!r} has an empty value, or one twice; {FORM}")
    return axis
