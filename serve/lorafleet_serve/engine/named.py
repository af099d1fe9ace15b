"""Adapters that a prompt itself names: `<lora:NAME:SCALE>`, as A1111's users write them, and triggers that stand alone.

Pure: text in; names, scales and the rest of the text out. Refuses to know which adapters there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from lorafleet.config.manifest import MAX_ADAPTERS
from lorafleet.config.wording import NAME_PATTERN, PATTERNS
from lorafleet.errors import RequestError

TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
TRIGGER = re.compile(r"<([a-z0-9][a-z0-9._-]{0,63})(?:/TOK[0-9]*)?>")
FORM = "<lora:NAME> or <lora:NAME:SCALE>, as in <lora:dog-rex:0.8>"


@dataclass(frozen=True)
class Tag:
    """An adapter and its scale, as a prompt names them."""

    name: str
    scale: float


def read_tags(prompt: str) -> tuple[str, tuple[Tag, ...]]:
    """A prompt without its tags, and what they say in order; RequestError for a tag that is none."""
    tags = tuple(_read(match[0], match[1]) for match in TAG.finditer(prompt))
    return (re.sub(r" {2,}", " ", TAG.sub("", prompt)).strip() if tags else prompt), tags


def check_untagged(negative_prompt: str | None) -> None:
    """RequestError for a tag in a negative prompt, where it would say nothing."""
    if match := TAG.search(negative_prompt or ""):
        raise RequestError(f"negative_prompt holds {match[0]!r}; adapters are named in the prompt, or as adapters")


def lone_triggers(prompt: str, named: Collection[str]) -> tuple[str, ...]:
    """Adapters that a prompt might mean by `<name>` and that are not among the `named` ones; a few at most."""
    found = dict.fromkeys(match[1] for match in TRIGGER.finditer(prompt))
    return tuple(name for name in found if name not in named)[:MAX_ADAPTERS]


def lone_trigger_note(name: str) -> str:
    """What to say of a registered adapter whose trigger stands in a prompt of a request that does not name it."""
    return (
        f"<{name}> in the prompt is plain text, since the request does not name adapter {name!r}; add "
        f"<lora:{name}:1> to the prompt, or name it among the adapters"
    )


def _read(tag: str, inside: str) -> Tag:
    name, _, scale = inside.partition(":")
    if not re.fullmatch(NAME_PATTERN, name):
        raise RequestError(f"the prompt holds {tag!r}; an adapter's name is {PATTERNS[NAME_PATTERN]}; write {FORM}")
    try:
        return Tag(name, float(scale) if scale else 1.0)
    except ValueError:
        raise RequestError(f"the prompt holds {tag!r}, whose scale {scale!r} is not one number; write {FORM}") from None
