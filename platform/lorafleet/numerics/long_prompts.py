"""Encodes prompts of any length, with weights in requests and without in training's captions.

* **Length**: tokens go in chunks of what fits (75 of CLIP's 77), each with a start and end of its own, encoded alone;
  their hidden states follow each other along the sequence. The pooled output is the first chunk's, as compel's and the
  common interfaces' is. The learned tokens of one trigger always stay in one chunk.
* **Weights**: z' = z0 + w (z - z0) with z0 the empty prompt's hidden state at the same place, per encoder: compel's
  up-weighting, here for weights below 1 too. No renormalisation of means, and the pooled output is left alone. Tokens
  of weight 1 keep their very bits.

Knows token ids and tensors. Refuses to know the grammar of weights and which adapter a trigger belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

import torch
from torch import Tensor

from lorafleet.errors import RequestError
from lorafleet.limits import MAX_CHUNKS as MAX_CHUNKS
from lorafleet.numerics.text import Conditioning, Piece, PromptEncoder, Vectors


@dataclass(frozen=True)
class Weighted:
    """A piece of a prompt and how strongly it counts."""

    piece: Piece
    weight: float = 1.0


Chunk = list[tuple[int, float]]
"""Token ids and their weights, without start and end."""


def encode_prompt(
    encoder: PromptEncoder, prompt: Sequence[Weighted], vectors: Vectors | None = None, clip_skip: int | None = None
) -> Conditioning:
    """Conditioning of one prompt, context [1, length k, w1 + w2] for k chunks.

    RequestError if it has more than `MAX_CHUNKS` chunks. For one chunk of weight 1, bit for bit `encoder.encode`.
    """

    @cache
    def empty() -> Conditioning:
        return encoder.encode((encoder.framed(0, ()), encoder.framed(1, ())), vectors, clip_skip)

    def encode(one: Chunk, two: Chunk) -> Conditioning:
        if not (one or two):
            return empty()
        ids = encoder.framed(0, [token for token, _ in one]), encoder.framed(1, [token for token, _ in two])
        conditioning = encoder.encode(ids, vectors, clip_skip)
        if all(weight == 1 for _, weight in (*one, *two)):
            return conditioning
        w = _weights(encoder, one, two).to(conditioning.context)
        z, z0 = conditioning.context, empty().context
        return Conditioning(torch.where(w == 1, z, z0 + w * (z - z0)), conditioning.pooled)

    encoded = [encode(one, two) for one, two in _paired_chunks(encoder, prompt)]
    return Conditioning(torch.cat([chunk.context for chunk in encoded], dim=1), encoded[0].pooled)


def chunks(encoder: PromptEncoder, i: int, prompt: Sequence[Weighted]) -> list[Chunk]:
    """A prompt's tokens for encoder `i`, in chunks that each take as many as fit; at least one, empty for no tokens.

    RequestError if a trigger stands for more learned tokens than a chunk holds.
    """
    room = encoder.length - 2
    chunk_list: list[Chunk] = [[]]
    for part in prompt:
        ids = encoder.piece_ids(i, part.piece)
        units = [[token] for token in ids] if isinstance(part.piece, str) else [ids]
        for unit in units:
            if len(unit) > room:
                raise RequestError(f"a trigger that stands for {len(unit)} learned tokens; at most {room} are allowed")
            if len(chunk_list[-1]) + len(unit) > room:
                chunk_list.append([])
            chunk_list[-1] += [(token, part.weight) for token in unit]
    return chunk_list


def chunk_ids(encoder: PromptEncoder, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
    """Token ids [k, length] for each encoder of a prompt without weights, in the k chunks that it takes.

    RequestError if it has more than `MAX_CHUNKS` chunks.
    """
    pairs = _paired_chunks(encoder, [Weighted(piece) for piece in pieces])
    one, two = (torch.cat([encoder.framed(i, [token for token, _ in pair[i]]) for pair in pairs]) for i in (0, 1))
    return one, two


def lengthened(conditioning: Conditioning, length: int, empty: Callable[[], Conditioning]) -> Conditioning:
    """The conditioning with a context of `length`, filled up with chunks of the empty prompt, as compel does.

    Guidance needs both its halves to have one length. `empty` encodes the empty prompt; it is called only if needed.
    """
    missing = length - conditioning.context.shape[1]
    if not missing:
        return conditioning
    filler = empty().context
    more = filler.repeat(1, missing // filler.shape[1], 1)
    return Conditioning(torch.cat([conditioning.context, more], dim=1), conditioning.pooled)


def _paired_chunks(encoder: PromptEncoder, prompt: Sequence[Weighted]) -> list[tuple[Chunk, Chunk]]:
    """A prompt's chunks for both encoders; where one has fewer, empty chunks follow. RequestError if too long."""
    ones, twos = (chunks(encoder, i, prompt) for i in (0, 1))
    count = max(len(ones), len(twos))
    if count > MAX_CHUNKS:
        raise RequestError(
            f"a prompt of {sum(map(len, ones))} tokens; at most {MAX_CHUNKS * (encoder.length - 2)} are allowed"
        )
    return list(zip_longest(ones, twos, fillvalue=[]))


def _weights(encoder: PromptEncoder, one: Chunk, two: Chunk) -> Tensor:
    """Weights [1, length, w1 + w2] of one chunk's hidden states; 1 for start, end and padding."""
    rows = []
    for chunk, width in zip((one, two), encoder.widths, strict=True):
        weights = torch.ones(encoder.length)
        weights[1 : len(chunk) + 1] = torch.tensor([weight for _, weight in chunk])
        rows.append(weights[:, None].expand(-1, width))
    return torch.cat(rows, dim=1)[None]
