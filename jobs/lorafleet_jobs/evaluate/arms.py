"""What is sampled: an adapter at a scale under a prompt, and the controls that a score of it is read against.

Knows adapters and words. Refuses to know how pictures are made and scored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lorafleet.bundle.adapter import Adapter

ADAPTER, REAL, BASE, SCALE_0 = "adapter", "real pictures", "base", "scale 0"
TOKENS = "tokens only"
WRONG_CLASS, ANOTHER, SHUFFLED = "wrong class word", "another's adapter", "shuffled trigger"
UNTRAINED_WORD = "QIX"
"""A plain word that no adapter was trained on, as `TOK` is one for an adapter without learned tokens."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One way of making pictures of a subject."""

    name: str
    adapter: Adapter | None
    """None: the base alone."""
    scale: float
    """Of the LoRA; learned tokens have none."""
    prompt_word: str
    """What stands before the class noun: a trigger, a plain word, or "" for the article alone."""
    noun: str

    def text(self, template: str) -> str:
        """A prompt from a template such as "a photo of {subject} at night"."""
        return template.format(
            subject=f"{self.prompt_word} {self.noun}" if self.prompt_word else with_article(self.noun)
        )


def with_article(noun: str) -> str:
    """A class noun with its indefinite article."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def word_of(adapter: Adapter, instance_prompt: str) -> str:
    """What names the subject in a prompt: the abstractions of the instance prompt, in their order."""
    abstractions = {trigger.abstraction for trigger in adapter.triggers}
    used = [word for word in re.findall(r"\w+", instance_prompt) if word in abstractions]
    return " ".join(used) or next((trigger.abstraction for trigger in adapter.triggers), "")


def adapter_arm(adapter: Adapter, noun: str, word: str = "TOK") -> Arm:
    """The adapter as it is meant to be used."""
    return Arm(ADAPTER, adapter, 1.0, word, noun)


def base_arm(noun: str) -> Arm:
    """The base alone, the subject's word left out."""
    return Arm(BASE, None, 0.0, "", noun)


def controls(
    adapter: Adapter, noun: str, wrong_noun: str, other: Adapter | None, word: str = "TOK", other_word: str = "TOK"
) -> list[Arm]:
    """The arms beside the adapter's own; `other` is another subject's adapter, None if there is none.

    base               the base alone, the subject's word left out
    scale 0            the adapter at scale 0, its word left out: must be the base to the bit
    tokens only        learned tokens without the LoRA; where there are both
    wrong class word   the trigger before another class's noun
    another's adapter  another subject's adapter and trigger before this subject's noun
    shuffled trigger   this LoRA under another subject's learned tokens; without such, under a plain word that it was
                       not trained on: TOK where it learned tokens, QIX where its trigger is the word TOK itself
    """
    arms = [base_arm(noun), Arm(SCALE_0, adapter, 0.0, "", noun)]
    if adapter.vectors is not None and adapter.parts:
        arms.append(Arm(TOKENS, adapter, 0.0, word, noun))
    arms.append(Arm(WRONG_CLASS, adapter, 1.0, word, wrong_noun))
    if other is not None:
        arms.append(Arm(ANOTHER, other, 1.0, other_word, noun))
    arms.append(_shuffled(adapter, noun, other, word, other_word))
    return arms


def _shuffled(adapter: Adapter, noun: str, other: Adapter | None, word: str, other_word: str) -> Arm:
    if adapter.vectors is None:
        return Arm(SHUFFLED, adapter, 1.0, UNTRAINED_WORD, noun)
    if other is None or other.vectors is None:
        return Arm(SHUFFLED, replace(adapter, vectors=None, triggers=()), 1.0, word, noun)
    return Arm(SHUFFLED, replace(adapter, vectors=other.vectors, triggers=other.triggers), 1.0, other_word, noun)
