"""A job's prompts as conditioning: encoded while tokens or text encoders are learned, remembered once they are not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lorafleet.bundle import Trigger
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.rowlora import RowDropout
from lorafleet.numerics.text import Conditioning, Piece, split_prompt
from lorafleet.targets import TEXT_ENCODER, TEXT_ENCODER_2
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.learned import Learned

ABSTRACTION = "TOK"
REMEMBERED = 1024
"""Captions; at SDXL's widths one takes 0.6 MiB in fp32."""


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

    def __init__(self, spec: JobSpec, loaded: LoadedBase, learned: Learned) -> None:
        self.loaded, self.learned = loaded, learned
        self.triggers: dict[str, Piece] = {}
        for trigger in triggers_of(spec):
            self.triggers |= dict.fromkeys((trigger.trigger, trigger.abstraction), trigger.tokens or trigger.text)
        self.remembered: dict[str, Conditioning] = {}

    def remember(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning of captions that nothing learned changes any more; the text encoder LoRA must be installed."""
        with torch.no_grad():
            if len(self.remembered) > REMEMBERED:  # shuffled captions never repeat
                self.remembered.clear()
            self.remembered |= {c: self.encode([c]) for c in dict.fromkeys(captions) if c not in self.remembered}
        return _joined([self.remembered[caption] for caption in captions])

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning of captions with what is installed now, "" as no prompt; nothing remembered."""
        return encode_together([(self, captions)])[0]

    @property
    def own_encoders(self) -> bool:
        """Whether the job has LoRA on the text encoders, so that its prompts cannot be encoded with others'."""
        return any(part in self.learned.low_rank for part in (TEXT_ENCODER, TEXT_ENCODER_2))


def conditioning_of(jobs: Sequence[tuple[JobPrompts, Sequence[str], RowDropout | None]]) -> list[Conditioning]:
    """Conditioning of each job's captions, "" as no prompt; differentiable in what each still learns.

    Prompts that only learned tokens change are encoded in one call for all jobs, each with its own tokens; those of
    a job with LoRA on the text encoders in a call of its own, with its dropout.
    """
    found: dict[int, Conditioning] = {}
    plain = [i for i, (job, *_) in enumerate(jobs) if not job.own_encoders]
    if plain:
        jobs[plain[0]][0].loaded.clear()
    together = [i for i in plain if jobs[i][0].learned.prompts_change]
    if together:
        found |= dict(zip(together, encode_together([jobs[i][:2] for i in together]), strict=True))
    for i, (job, captions, dropout) in enumerate(jobs):
        if job.own_encoders:
            job.learned.install_text(job.loaded, dropout if job.learned.prompts_change else None)
            found[i] = job.encode(captions) if job.learned.prompts_change else job.remember(captions)
        elif i not in found:
            found[i] = job.remember(captions)
    return [found[i] for i in range(len(jobs))]


def encode_together(jobs: Sequence[tuple[JobPrompts, Sequence[str]]]) -> list[Conditioning]:
    """Each job's captions in one call of the text encoders; every caption once, its tokens rows of a joint table."""
    loaded = jobs[0][0].loaded
    ids: list[tuple[Tensor, Tensor]] = []
    places: list[dict[str, int]] = []
    offset = 0
    for job, captions in jobs:
        places.append({})
        for caption in dict.fromkeys(captions):
            if caption:
                places[-1][caption] = len(ids)
                ids.append(loaded.prompts.token_ids(_moved(split_prompt(caption, job.triggers), offset)))
        offset += 0 if job.learned.vectors is None else len(job.learned.vectors[0])
    tables = [job.learned.vectors for job, _ in jobs if job.learned.vectors is not None]
    vectors = (torch.cat([t[0] for t in tables]), torch.cat([t[1] for t in tables])) if tables else None
    parts = []
    if ids:
        parts.append(loaded.prompts.encode((torch.cat([i[0] for i in ids]), torch.cat([i[1] for i in ids])), vectors))
    if any("" in captions for _, captions in jobs):
        parts.append(loaded.unconditional(1))  # the last row is no prompt
    encoded = _joined(parts)
    rows = [
        torch.tensor([place.get(caption, len(ids)) for caption in captions], device=loaded.device)
        for place, (_, captions) in zip(places, jobs, strict=True)
    ]
    return [Conditioning(encoded.context[row], encoded.pooled[row]) for row in rows]


def _moved(pieces: Sequence[Piece], offset: int) -> list[Piece]:
    """Pieces whose token rows start at `offset` of a joint table."""
    return [piece if isinstance(piece, str) else tuple(offset + row for row in piece) for piece in pieces]


def _joined(parts: Sequence[Conditioning]) -> Conditioning:
    return Conditioning(torch.cat([c.context for c in parts]), torch.cat([c.pooled for c in parts]))
