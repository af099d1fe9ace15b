"""A job's prompts as conditioning: encoded while tokens or text encoders are learned, remembered once they are not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorafleet.bundle import Trigger
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.text import Conditioning, Piece, split_prompt
from lorafleet_jobs.jobspec import JobSpec
from lorafleet_jobs.train.learned import Learned

ABSTRACTION = "TOK"


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

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning of a batch of captions, "" as no prompt; differentiable in what is still learned.

        The job's text encoder LoRA must be installed.
        """
        if not self.learned.prompts_change:
            with torch.no_grad():
                self.remembered |= {c: self.encode([c]) for c in dict.fromkeys(captions) if c not in self.remembered}
            return _joined([self.remembered[caption] for caption in captions])
        unique = list(dict.fromkeys(captions))
        encoded = self.encode(unique)
        rows = torch.tensor([unique.index(caption) for caption in captions], device=self.loaded.device)
        return Conditioning(encoded.context[rows], encoded.pooled[rows])

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning of captions with what is installed now, nothing remembered."""
        said = [caption for caption in captions if caption]
        parts: dict[str, Conditioning] = {}
        if said:
            ids = [self.loaded.prompts.token_ids(split_prompt(caption, self.triggers)) for caption in said]
            one, two = torch.cat([pair[0] for pair in ids]), torch.cat([pair[1] for pair in ids])
            encoded = self.loaded.prompts.encode((one, two), self.learned.vectors)
            rows = zip(encoded.context.split(1), encoded.pooled.split(1), strict=True)
            parts = {caption: Conditioning(*row) for caption, row in zip(said, rows, strict=True)}
        if "" in captions:
            parts[""] = self.loaded.unconditional(1)
        return _joined([parts[caption] for caption in captions])


def _joined(parts: Sequence[Conditioning]) -> Conditioning:
    return Conditioning(torch.cat([c.context for c in parts]), torch.cat([c.pooled for c in parts]))
