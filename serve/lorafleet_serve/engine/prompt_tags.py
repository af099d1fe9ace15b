"""What a prompt's text says about adapters: tags `<lora:NAME:SCALE>`, as A1111's users write them, and triggers.

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
class LoraTag:
    """An adapter and its scale, as a prompt names them."""

    name: str
    scale: float


def read_tags(prompt: str) -> tuple[str, tuple[LoraTag, ...]]:
    """The prompt without its tags, and the tags in order; RequestError for a malformed one."""
    tags = tuple(_parse_tag(match[0], match[1]) for match in TAG.finditer(prompt))
    return (re.sub(r" {2,}", " ", TAG.sub("", prompt)).strip() if tags else prompt), tags


def check_untagged(negative_prompt: str | None) -> None:
    """RequestError for a tag in a negative prompt, where it would have no effect."""
    if match := TAG.search(negative_prompt or ""):
        raise RequestError(f"negative_prompt holds {match[0]!r}; adapters are named in the prompt, or as adapters")


def unnamed_triggers(prompt: str, named: Collection[str]) -> tuple[str, ...]:
    """Names that stand in the prompt like a trigger, as `<name>`, without being among the `named` adapters.

    At most as many as a request may have adapters.
    """
    names = dict.fromkeys(match[1] for match in TRIGGER.finditer(prompt))
    return tuple(name for name in names if name not in named)[:MAX_ADAPTERS]


def unnamed_trigger_note(name: str) -> str:
    """The note for a request whose prompt has the trigger of a registered adapter that the request does not name."""
    return (
        f"<{name}> in the prompt is plain text, since the request does not name adapter {name!r}; add "
        f"<lora:{name}:1> to the prompt, or name it among the adapters"
    )


def _parse_tag(tag: str, inside: str) -> LoraTag:
    name, _, scale = inside.partition(":")
    if not re.fullmatch(NAME_PATTERN, name):
        raise RequestError(f"the prompt holds {tag!r}; an adapter's name is {PATTERNS[NAME_PATTERN]}; write {FORM}")
    try:
        return LoraTag(name, float(scale) if scale else 1.0)
    except ValueError:
        raise RequestError(f"the prompt holds {tag!r}, whose scale {scale!r} is not one number; write {FORM}") from None
