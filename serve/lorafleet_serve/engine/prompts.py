"""What a request's prompts say: weights, and which words are its own adapters' triggers.

Pure: knows cards and rows, no encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lorafleet.bundle.adapter import Adapter
from lorafleet.errors import RequestError
from lorafleet.numerics.long_prompts import Weighted
from lorafleet.numerics.text import Piece, Vectors, split_prompt
from lorafleet_serve.engine.emphasis import parse_emphasis


def trigger_table(adapters: Sequence[Adapter]) -> dict[str, Piece]:
    """What each trigger stands for, with token rows counted through all the request's adapters in order.

    `<name>` works always; the bare abstraction (`TOK`) only where one adapter makes it unambiguous. Raises RequestError
    if one trigger would stand for two adapters' tokens.
    """
    table: dict[str, Piece] = {}
    offset = 0
    for adapter in adapters:
        for trigger in adapter.triggers:
            piece: Piece = tuple(offset + row for row in trigger.tokens) if trigger.tokens else trigger.text
            if table.setdefault(trigger.trigger, piece) != piece:
                raise RequestError(
                    f"trigger {trigger.trigger!r} stands for learned tokens of two adapters of this request; name one "
                    "version of an adapter in a request"
                )
            if len(adapters) == 1:
                table[trigger.abstraction] = piece
        offset += 0 if adapter.vectors is None else len(adapter.vectors[0])
    return table


def read_prompt(prompt: str, triggers: Mapping[str, Piece]) -> tuple[Weighted, ...]:
    """A prompt's pieces and weights. Triggers stand inside weights, never across them, and for plain text always."""
    return tuple(
        Weighted(piece, weight) for text, weight in parse_emphasis(prompt) for piece in split_prompt(text, triggers)
    )


def join_vectors(adapters: Sequence[Adapter]) -> Vectors | None:
    """The adapters' learned tokens in one table, in the order that `trigger_table` counts; None if they have none."""
    found = [adapter.vectors for adapter in adapters if adapter.vectors is not None]
    return (torch.cat([v[0] for v in found]), torch.cat([v[1] for v in found])) if found else None
