"""Builds the toy world's tokenizers: ordinary CLIP byte-level BPE whose merges spell the world's words.

Every word of the grammar is one token; any other text falls back to shorter pieces, down to bytes, as with CLIP's own
vocabulary. Layout of the ids, as in CLIP: bytes, bytes that end a word, merges, `<|startoftext|>`, `<|endoftext|>`.
"""

from __future__ import annotations

from collections.abc import Iterable

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def merges_for(words: Iterable[str]) -> list[tuple[str, str]]:
    """Left-to-right merges that join each word into one piece, in an order BPE can replay."""
    merges: dict[tuple[str, str], None] = {}
    for word in sorted(set(words)):
        pieces = [*word[:-1], word[-1] + "</w>"]
        for pair in merges:
            pieces = _merge(pieces, pair)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces = _merge(pieces, (pieces[0], pieces[1]))
    return list(merges)


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] = merged[-1] + piece
        else:
            merged.append(piece)
    return merged


def build_tokenizer(words: Iterable[str], pad_token: str = END) -> CLIPTokenizer:
    """A `CLIPTokenizer` over `words`; SDXL pads its first encoder with the end token and its second with "!"."""
    letters = list(bytes_to_unicode().values())
    merges = merges_for(word for words_ in words for word in words_.split("-"))
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=pad_token,
        model_max_length=MAX_LENGTH,
    )
