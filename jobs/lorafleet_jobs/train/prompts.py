"""A job's prompts as conditioning: encoded while tokens are learned, remembered once they are frozen."""

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
    """How prompts name this job's subject: `<adapter>`, or `TOK`, for the learned tokens or for the plain word TOK."""
    tokens = tuple(range(spec.recipe.pivotal.tokens)) if spec.recipe.pivotal is not None else ()
    return (
        Trigger(
            trigger=f"<{spec.adapter}>", abstraction=ABSTRACTION, tokens=tokens, text="" if tokens else ABSTRACTION
        ),
    )


class JobPrompts:
    """Conditioning for captions and validation prompts of one job."""

    def __init__(self, spec: JobSpec, loaded: LoadedBase, learned: Learned) -> None:
        self.loaded, self.learned = loaded, learned
        self.triggers: dict[str, Piece] = {}
        for trigger in triggers_of(spec):
            piece: Piece = trigger.tokens or trigger.text
            self.triggers |= {trigger.trigger: piece, trigger.abstraction: piece}
        self.remembered: dict[str, Conditioning] = {}

    def conditioning(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning of a batch of captions; differentiable in the learned tokens while they are being learned."""
        unique = list(dict.fromkeys(captions))
        learning = self.learned.vectors is not None and self.learned.vectors[0].requires_grad
        if learning:
            encoded = self._encode(unique)
        else:
            missing = [caption for caption in unique if caption not in self.remembered]
            with torch.no_grad():
                self.remembered |= {caption: self._encode([caption]) for caption in missing}
            known = [self.remembered[caption] for caption in unique]
            encoded = Conditioning(torch.cat([c.context for c in known]), torch.cat([c.pooled for c in known]))
        rows = torch.tensor([unique.index(caption) for caption in captions], device=self.loaded.device)
        return Conditioning(encoded.context[rows], encoded.pooled[rows])

    def _encode(self, captions: Sequence[str]) -> Conditioning:
        ids = [self.loaded.prompts.token_ids(split_prompt(caption, self.triggers)) for caption in captions]
        one, two = torch.cat([pair[0] for pair in ids]), torch.cat([pair[1] for pair in ids])
        return self.loaded.prompts.encode((one, two), self.learned.vectors)
