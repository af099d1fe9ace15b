"""How many tokens a text has for a base, and in how many chunks it is encoded: by tokenizer files, without torch."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorafleet.bases import Base
from lorafleet.errors import BaseModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PARTS = ("tokenizer", "tokenizer_2")
_LONGEST = 77
"""CLIP's, where a tokenizer's configuration does not say."""
_LEARNED = re.compile(r"\bTOK\d*\b")
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""Where CLIP cuts a text before it merges pairs of bytes (Radford et al. 2021, its tokenizer)."""


@dataclass(frozen=True)
class Counter:
    """Counts tokens as training and serving do, of both encoders the more."""

    tokenizers: tuple[_Tokenizer, _Tokenizer]

    @property
    def room(self) -> int:
        """Tokens of one chunk, without start and end."""
        return self.tokenizers[0].length - 2

    def tokens(self, text: str, learned: int) -> int:
        """Of a text in which each TOK, TOK2 ... stands for so many learned tokens, or for the plain word if none."""
        return max(sum(units) for units in self._units(text, learned))

    def chunks(self, text: str, learned: int) -> int:
        """How often the encoders are asked for a text; learned tokens of one word are never cut in two."""
        return max(_filled(units, self.room) for units in self._units(text, learned))

    def first_chunk(self, text: str, learned: int) -> int | None:
        """In which chunk, from 1, a TOK of a text is first named, by the encoder that comes to it later; None: none.

        Where no tokens are learned, TOK is a plain word and this is None.
        """
        if not learned or (found := _LEARNED.search(text)) is None:
            return None
        return self.chunks(text[: found.end()], learned)

    def surely_fits(self, text: str, learned: int) -> bool:
        """Whether a text fits into one chunk however badly it is cut into tokens: no token is less than a byte."""
        size = len(unicodedata.normalize("NFC", text).lower().encode("utf-8", "replace"))
        return size + learned * len(_LEARNED.findall(text)) <= self.room

    def _units(self, text: str, learned: int) -> list[list[int]]:
        """For each encoder, in the text's order, the lengths of what stays together."""
        pieces = _LEARNED.split(text) if learned else [text]
        words = []
        for one in self.tokenizers:
            units = [1] * one.count(pieces[0])
            for piece in pieces[1:]:
                units += [learned, *[1] * one.count(piece)]
            words.append(units)
        return words


@dataclass(frozen=True)
class _Tokenizer:
    """One tokenizer's files."""

    folder: Path

    @cached_property
    def length(self) -> int:
        return int(self._config.get("model_max_length", _LONGEST))

    def count(self, text: str) -> int:
        """Tokens of plain text; the padding's own spelling counts as one each, wherever it is typed."""
        parts = [text] if self._pad in (None, "<|endoftext|>", "<|startoftext|>") else text.split(self._pad)
        return len(parts) - 1 + sum(len(self._tokenizer.encode(part, add_special_tokens=False)) for part in parts)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return _json(self.folder / "tokenizer_config.json")

    @cached_property
    def _pad(self) -> str | None:
        pad = self._config.get("pad_token")
        return pad.get("content") if isinstance(pad, dict) else pad

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        whole = self.folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(whole)) if whole.is_file() else _from_merges(self.folder)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # what is typed is text
        return tokenizer


def counter_of(base: Base) -> Counter | None:
    """A base's; None where its folder lacks the tokenizers' files, which is the base's own trouble."""
    encoders = [_Tokenizer(base.path / part) for part in PARTS]
    for encoder in encoders:
        files = [encoder.folder / name for name in ("vocab.json", "merges.txt")]
        if not ((encoder.folder / "tokenizer.json").is_file() or all(file.is_file() for file in files)):
            return None
    return Counter((encoders[0], encoders[1]))


def _from_merges(folder: Path) -> Tokenizer:
    """CLIP's tokenizer from the two files in which it was published."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = models.BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<|endoftext|>", end_of_word_suffix="</w>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _filled(units: Sequence[int], room: int) -> int:
    """Chunks that take units in turn, each as many as fit."""
    chunks, used = 1, 0
    for unit in units:
        if used + unit > room:
            chunks, used = chunks + 1, 0
        used += unit
    return chunks


def _json(file: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as problem:
        raise BaseModelError(f"cannot read {file} ({problem}); fetch the base again") from None
    return data
