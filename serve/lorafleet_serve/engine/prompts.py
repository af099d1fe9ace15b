"""What a request's prompts mean: their weights, and which words are triggers of its own adapters.

Pure: knows adapters' triggers and learned tokens, no encoder.
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

    `<name>` works always; the bare abstraction (`TOK`) only with a single adapter, which makes it unambiguous. Raises
    RequestError if one trigger would stand for two adapters' tokens.
    """
    if len(adapters) == 1:
        return adapters[0].trigger_table()
    table: dict[str, Piece] = {}
    offset = 0
    for adapter in adapters:
        own = adapter.trigger_table()
        for trigger in (trigger.trigger for trigger in adapter.triggers):
            piece = own[trigger]
            if not isinstance(piece, str):
                piece = tuple(offset + row for row in piece)
            if table.setdefault(trigger, piece) != piece:
                raise RequestError(
                    f"trigger {trigger!r} stands for learned tokens of two adapters of this request; name one "
                    "version of an adapter in a request"
                )
        offset += 0 if adapter.vectors is None else len(adapter.vectors[0])
    return table


def read_prompt(prompt: str, triggers: Mapping[str, Piece]) -> tuple[Weighted, ...]:
    """A prompt's pieces and weights; a weight's parentheses cannot cut through a trigger."""
    return tuple(
        Weighted(piece, weight) for text, weight in parse_emphasis(prompt) for piece in split_prompt(text, triggers)
    )


def join_vectors(adapters: Sequence[Adapter]) -> Vectors | None:
    """The adapters' learned tokens in one table, in the order that `trigger_table` counts; None if they have none."""
    vectors = [adapter.vectors for adapter in adapters if adapter.vectors is not None]
    return (torch.cat([v[0] for v in vectors]), torch.cat([v[1] for v in vectors])) if vectors else None
