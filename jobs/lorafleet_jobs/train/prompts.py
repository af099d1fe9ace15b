"""A job's prompts as conditioning: encoded anew while tokens or text encoders are trained, cached once they are not.

The job's own tokens and adapters are arguments of encoding, and nothing of them stays on the base: a prompt's
conditioning cannot depend on what was encoded before it. Captions of any length are encoded in chunks, as
serving does (`lorafleet.numerics.long_prompts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from cachetools import LRUCache
from torch import Tensor

from lorafleet.bundle.adapter import trigger_table
from lorafleet.bundle.bundle import Trigger
from lorafleet.errors import DataError, RequestError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.captured import Calls
from lorafleet.numerics.long_prompts import chunk_ids, lengthened
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning, split_prompt
from lorafleet.subject_words import ABSTRACTION
from lorafleet.targets import TEXT_PARTS
from lorafleet.text_step import encode_ids
from lorafleet.util.to_device import to_device
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.trainable_state import PackedFactors, TrainableState

CACHED = 1024
"""Captions whose conditioning is kept, the least recently used dropped first; one of SDXL takes 0.6 MiB in fp32."""


def triggers_of(spec: JobSpec) -> tuple[Trigger, ...]:
    """How prompts name this job's subject.

    `<adapter>`, or `TOK`, stands for the learned tokens, without any for the plain word TOK; a further abstraction TOK2
    is `<adapter/TOK2>`.
    """
    pivotal = spec.recipe.pivotal
    if pivotal is None:
        return (Trigger(trigger=f"<{spec.adapter}>", abstraction=ABSTRACTION, text=ABSTRACTION),)
    return tuple(
        Trigger(
            trigger=f"<{spec.adapter}>" if i == 0 else f"<{spec.adapter}/{word}>",
            abstraction=word,
            tokens=tuple(range(i * pivotal.tokens, (i + 1) * pivotal.tokens)),
        )
        for i, word in enumerate(pivotal.abstractions)
    )


class JobPrompts:
    """Conditioning for captions and validation prompts of one job."""

    def __init__(self, spec: JobSpec, base: LoadedBase, trainable: TrainableState) -> None:
        self.spec, self.base, self.trainable = spec, base, trainable
        self.triggers = trigger_table(triggers_of(spec))
        self._conditioning: LRUCache[tuple[str, float], Conditioning] = LRUCache(CACHED)
        self._ids: LRUCache[str, tuple[Tensor, Tensor]] = LRUCache(CACHED)

    def cached(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning of captions that no training changes any more, each encoded once."""
        return self._cached(captions, 1.0)

    def of_base(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning of captions without the job's LoRA; each encoded once, unless a learned token is in one."""
        learns = self.trainable.vectors is not None and self.trainable.prompts_change
        if learns and any(self.has_learned_tokens(caption) for caption in captions):
            return self.encode(captions, weight=0)
        return self._cached(captions, 0.0)

    def _cached(self, captions: Sequence[str], weight: float) -> Conditioning:
        with torch.no_grad():
            encoded = {caption: self._encoded_once(caption, weight) for caption in dict.fromkeys(captions)}
            length = max(each.context.shape[1] for each in encoded.values())
            full = {
                caption: lengthened(each, length, partial(self._filler, caption, weight))
                for caption, each in encoded.items()
            }
            return Conditioning.cat([full[caption] for caption in captions])

    def _encoded_once(self, caption: str, weight: float) -> Conditioning:
        if (caption, weight) not in self._conditioning:
            self._conditioning[caption, weight] = self.encode([caption], weight)
        conditioning: Conditioning = self._conditioning[caption, weight]
        return conditioning

    def has_learned_tokens(self, caption: str) -> bool:
        """Whether a caption names tokens that the job learns."""
        return any(not isinstance(piece, str) for piece in split_prompt(caption, self.triggers))

    def encode(
        self,
        captions: Sequence[str],
        weight: float = 1.0,
        dropout: RowDropout | None = None,
        calls: Calls | None = None,
    ) -> Conditioning:
        """Conditioning of captions, "" as no prompt, with the job's tokens and text encoder LoRA; not cached.

        The LoRA is scaled by `weight`, at 0 left out. Context [n, length k, w] for the k chunks of the longest caption;
        shorter ones are filled up with chunks of the empty prompt. Raises DataError for one that is too long.
        """
        return encode_together([(self, captions)], self.trainable.packed(TEXT_PARTS, weight), dropout, calls)[0]

    def chunks(self, captions: Sequence[str]) -> int:
        """How many chunks the longest of these captions takes. Raises DataError for one that is too long."""
        return max(len(self.ids(caption)[0]) for caption in captions)

    def ids(self, caption: str) -> tuple[Tensor, Tensor]:
        """Token ids [k, length] of a caption's chunks for both encoders; reserved ids name the job's own vectors."""
        if caption not in self._ids:
            try:
                self._ids[caption] = chunk_ids(self.base.prompts, split_prompt(caption, self.triggers))
            except RequestError as problem:
                raise DataError(f"{self.spec.subject}: caption {caption[:60]!r}...: {problem}; shorten it") from problem
        ids: tuple[Tensor, Tensor] = self._ids[caption]
        return ids

    @property
    def own_encoders(self) -> bool:
        """Whether the job has LoRA on the text encoders, so that its prompts cannot be encoded with others'."""
        return any(part in self.trainable.low_rank for part in TEXT_PARTS)

    def _filler(self, caption: str, weight: float) -> Conditioning:
        """What fills a caption up to the length of a longer one: the empty prompt, or no prompt if it is "" itself."""
        if not caption:
            return self._encoded_once(caption, weight)
        with self.base.carrying(TEXT_PARTS, self.trainable.adapters(self.base, TEXT_PARTS, weight)):
            return empty_prompt(self.base)


def conditioning_of(
    jobs: Sequence[tuple[JobPrompts, Sequence[str], RowDropout | None]], calls: Calls | None = None
) -> list[Conditioning]:
    """Conditioning of each job's captions, "" as no prompt; differentiable in the parameters that are still trained.

    Prompts that only trained tokens change are encoded in one call for all jobs, each with its own tokens; those of
    a job with LoRA on the text encoders in a call of its own, with its dropout. `calls` is how the encoders are called.
    """
    conditioning: dict[int, Conditioning] = {}
    together = [i for i, (job, *_) in enumerate(jobs) if job.trainable.prompts_change and not job.own_encoders]
    if together:
        conditioning |= dict(zip(together, encode_together([jobs[i][:2] for i in together], calls=calls), strict=True))
    for i, (job, captions, dropout) in enumerate(jobs):
        if i not in conditioning:
            changing = job.trainable.prompts_change
            conditioning[i] = job.encode(captions, 1.0, dropout, calls) if changing else job.cached(captions)
    return [conditioning[i] for i in range(len(jobs))]


def encode_together(
    jobs: Sequence[tuple[JobPrompts, Sequence[str]]],
    factors: Mapping[str, PackedFactors] | None = None,
    dropout: RowDropout | None = None,
    calls: Calls | None = None,
) -> list[Conditioning]:
    """Each job's captions, encoded in one call of the text encoders, every caption once.

    The token vectors of all jobs are the rows of one table. `factors` are the LoRA that the text encoders carry
    meanwhile, by part.
    """
    base = jobs[0][0].base
    ids: list[tuple[Tensor, Tensor]] = []
    chunk_rows: list[dict[str, list[int]]] = []  # for each job, by caption
    offset = chunks = 0
    for job, captions in jobs:
        chunk_rows.append({})
        for caption in dict.fromkeys(captions):
            if caption:
                ids.append(base.prompts.with_rows_moved(job.ids(caption), offset))
                chunk_rows[-1][caption] = list(range(chunks, chunks + len(ids[-1][0])))
                chunks += len(ids[-1][0])
        offset += 0 if job.trainable.vectors is None else len(job.trainable.vectors[0])
    tables = [job.trainable.vectors for job, _ in jobs if job.trainable.vectors is not None]
    vectors = (torch.cat([t[0] for t in tables]), torch.cat([t[1] for t in tables])) if tables else None
    rows = [_rows(captions, by_caption, chunks) for by_caption, (_, captions) in zip(chunk_rows, jobs, strict=True)]
    parts, carried = [], factors or {}
    if ids:
        flat = {part: (packed.layout, packed.flat) for part, packed in carried.items()}
        most = sum(len(captions) for _, captions in jobs)
        parts.append(encode_ids(base, ids, vectors, flat, dropout, calls, most))
    wanted = {row for own in rows for caption in own for row in caption}
    if wanted & {chunks, -1}:
        adapters = {part: packed.stacked(base.lora[part]) for part, packed in carried.items()}
        with base.carrying(TEXT_PARTS, adapters, dropout):
            parts += [base.unconditional(1)] if chunks in wanted else []
            parts += [empty_prompt(base)] if -1 in wanted else []
    encoded = Conditioning.cat(parts)
    indices = [to_device(torch.tensor(own), base.device) for own in rows]
    return [Conditioning(encoded.context[i].flatten(1, 2), encoded.pooled[i[:, 0]]) for i in indices]


def empty_prompt(base: LoadedBase) -> Conditioning:
    """One chunk of the empty prompt, encoded with what the text encoders carry."""
    return base.prompts.encode(base.prompts.token_ids([""]))


def _rows(captions: Sequence[str], chunk_rows: Mapping[str, list[int]], no_prompt: int) -> list[list[int]]:
    """For each caption the encoded rows of its chunks, all of one length: -1 is the empty prompt, the last row.

    `no_prompt` is the row of no prompt at all.
    """
    length = max((len(chunk_rows[caption]) for caption in captions if caption), default=1)
    return [
        [*chunk_rows[caption], *[-1] * (length - len(chunk_rows[caption]))] if caption else [no_prompt] * length
        for caption in captions
    ]
