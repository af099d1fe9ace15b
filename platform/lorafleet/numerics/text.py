"""Encodes prompts for training and serving alike, with learned tokens that belong to one prompt's adapters.

Learned tokens never enter a tokenizer or an embedding table. A prompt is split at the triggers of *its own* adapters;
each becomes reserved ids above the vocabulary, and `PlaceholderEmbedding` looks those up in vectors passed beside the
prompt. Everything else a user types is plain text, `<|endoftext|>` and other people's triggers included.

SDXL's published text encoders say `eos_token_id: 2`, for which transformers pools at the *largest* id of a prompt: the
last learned token, if there is one. Reserved ids are above the vocabulary and ascend, as those that diffusers adds are,
so training, serving and stock diffusers agree on the position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorafleet.errors import RequestError

Vectors = tuple[Tensor, Tensor]
"""Learned tokens for both encoders, [n, w1] and [n, w2]."""
Piece = str | tuple[int, ...]
"""Plain text, or rows of the vectors that stand in its place."""


@dataclass(frozen=True)
class Conditioning:
    """The UNet's text input of n rows: `context` [n, length, w1 + w2] and `pooled` [n, projection]."""

    context: Tensor
    pooled: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of all parts, one after another; their contexts must have one length."""
        return cls(torch.cat([part.context for part in parts]), torch.cat([part.pooled for part in parts]))

    def rows(self) -> list[Conditioning]:
        """Each row as a conditioning of its own."""
        return [Conditioning(self.context[i : i + 1], self.pooled[i : i + 1]) for i in range(len(self.context))]


def split_prompt(prompt: str, triggers: Mapping[str, Piece]) -> list[Piece]:
    """Cuts a prompt at its triggers; a trigger that stands for text is replaced by it.

    Longer triggers win over shorter ones, and one that looks like a word matches whole words only, so `TOK` is not
    found in `TOK2`.
    """
    if not triggers:
        return [prompt]
    patterns = [
        rf"\b{re.escape(t)}\b" if re.fullmatch(r"\w+", t) else re.escape(t)
        for t in sorted(triggers, key=len, reverse=True)
    ]
    pieces: list[Piece] = []
    for part in re.split(f"({'|'.join(patterns)})", prompt):
        piece = triggers.get(part, part)
        if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
            pieces[-1] += piece
        elif piece:
            pieces.append(piece)
    return pieces


class PlaceholderEmbedding(nn.Module):
    """A token embedding whose ids at or above the vocabulary size are rows of `vectors`, set for one call at a time."""

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.weight = base.weight
        self.held: tuple[Tensor, ...] = ()  # in a tuple: a bare parameter would become one of the encoder's own

    def forward(self, ids: Tensor) -> Tensor:
        """`ids` [n, length] to embeddings [n, length, w]."""
        if not self.held:
            return self.base(ids)  # type: ignore[no-any-return]
        size = self.base.num_embeddings
        learned = F.embedding((ids - size).clamp(min=0), self.held[0].to(self.base.weight.dtype))
        return torch.where((ids >= size)[..., None], learned, self.base(ids.clamp(max=size - 1)))


class PromptEncoder:
    """Both tokenizers and text encoders of an SDXL-shaped base. Not thread-safe: one owner at a time."""

    def __init__(self, tokenizers: tuple[Any, Any], encoders: tuple[nn.Module, nn.Module]) -> None:
        self.tokenizers, self.encoders = tokenizers, encoders
        self.embeddings: list[PlaceholderEmbedding] = []
        for encoder in encoders:
            inner: Any = getattr(encoder, "text_model", encoder).embeddings
            if not isinstance(inner.token_embedding, PlaceholderEmbedding):
                inner.token_embedding = PlaceholderEmbedding(inner.token_embedding)
            self.embeddings.append(inner.token_embedding)

    @property
    def length(self) -> int:
        """Tokens of a prompt, start and end included."""
        return int(self.tokenizers[0].model_max_length)

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of a learned token in each encoder."""
        one, two = (embedding.base.embedding_dim for embedding in self.embeddings)
        return one, two

    def token_ids(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        """Token ids [1, length] for each encoder: start, text, end, padding.

        Raises RequestError for what does not fit; `long_prompts.encode_prompt` takes prompts of any length.
        """
        one, two = ([token for piece in pieces for token in self.piece_ids(i, piece)] for i in (0, 1))
        room = self.length - 2
        if max(len(one), len(two)) > room:
            raise RequestError(f"a prompt of {max(len(one), len(two))} tokens; at most {room} fit here; shorten it")
        return self.framed(0, one), self.framed(1, two)

    def with_rows_moved(self, ids: tuple[Tensor, Tensor], offset: int) -> tuple[Tensor, Tensor]:
        """The same ids for a longer table of vectors, in which this prompt's own begin at row `offset`."""
        one, two = (
            torch.where(own >= embedding.base.num_embeddings, own + offset, own)
            for own, embedding in zip(ids, self.embeddings, strict=True)
        )
        return one, two

    def piece_ids(self, i: int, piece: Piece) -> list[int]:
        """Ids of one piece for encoder `i`, 0 or 1, without start and end."""
        if isinstance(piece, str):
            return text_ids(self.tokenizers[i], piece)
        return [self.embeddings[i].base.num_embeddings + row for row in piece]

    def framed(self, i: int, body: Sequence[int]) -> Tensor:
        """Ids [1, length] of at most length - 2 tokens for encoder `i`: start, body, end, padding."""
        tokenizer = self.tokenizers[i]
        ids = [tokenizer.bos_token_id, *body, tokenizer.eos_token_id]
        return torch.tensor([ids + [tokenizer.pad_token_id] * (self.length - len(ids))])

    def encode(
        self, ids: tuple[Tensor, Tensor], vectors: Vectors | None = None, clip_skip: int | None = None
    ) -> Conditioning:
        """Conditioning of token ids [n, length]: penultimate hidden states of both encoders, pooled of the second.

        `clip_skip` leaves out so many more layers, as diffusers' SDXL pipelines do; the pooled output has them all.
        Differentiable with respect to `vectors`, whose rows the reserved ids name.
        """
        states, pooled = [], None
        for i, encoder in enumerate(self.encoders):
            self.embeddings[i].held = () if vectors is None else (vectors[i],)
            try:
                output = encoder(ids[i].to(self.embeddings[i].weight.device), output_hidden_states=True)
            finally:
                self.embeddings[i].held = ()
            states.append(output.hidden_states[-(2 + (clip_skip or 0))])
            pooled = output.text_embeds if i == 1 else None
        assert pooled is not None  # the second encoder has a projection
        return Conditioning(torch.cat(states, dim=-1), pooled)


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of plain text, in which a typed `<|endoftext|>` is text too.

    SDXL's second tokenizer pads with "!" and so takes every "!" of a prompt for padding. The base was trained so, hence
    this does the same.
    """
    pad = tokenizer.pad_token
    parts = [text] if pad in (tokenizer.bos_token, tokenizer.eos_token) else text.split(pad)
    ids: list[int] = []
    for i, part in enumerate(parts):
        ids += [tokenizer.pad_token_id] if i else []
        ids += tokenizer(part, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids


def new_vectors(encoder: PromptEncoder, count: int, generator: torch.Generator, init: str | None = None) -> Vectors:
    """Fresh learned tokens, fp32: drawn with the standard deviation of each vocabulary, or a word's embedding."""
    made = []
    for tokenizer, embedding in zip(encoder.tokenizers, encoder.embeddings, strict=True):
        table = embedding.base.weight.detach().float()
        if init is None:
            rows = torch.randn(count, table.shape[1], generator=generator) * table.std().item()
        else:
            ids = text_ids(tokenizer, init)
            rows = table[ids].mean(dim=0, keepdim=True).repeat(count, 1).cpu()
        made.append(rows.requires_grad_())
    return made[0], made[1]
