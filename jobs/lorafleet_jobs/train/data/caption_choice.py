"""The text of one use of an image: its caption with prefix, shuffle and dropout.

Knows text alone: `TOK` is a word like others.
"""

from __future__ import annotations

import torch

from lorafleet.config import Recipe
from lorafleet_jobs.jobspec import JobSpec

NO_CAPTION = ""
"""Means no conditioning, as guidance uses it; it is never encoded as an empty text."""


def drawn_caption(caption: str | None, instance_prompt: str, recipe: Recipe, generator: torch.Generator) -> str:
    """The text of one use of an image; without a caption it is the instance prompt, which takes no prefix."""
    spec = recipe.caption
    if torch.rand((), generator=generator).item() < spec.dropout:
        return NO_CAPTION
    text = instance_prompt if caption is None else caption
    if spec.shuffle:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        kept, rest = parts[: spec.keep_tokens], parts[spec.keep_tokens :]
        text = ", ".join([*kept, *(rest[i] for i in torch.randperm(len(rest), generator=generator).tolist())])
    return text if caption is None else spec.prefix + text


def class_prompt(spec: JobSpec) -> str:
    """The text of every class image: never shuffled, never dropped."""
    prompt = spec.recipe.prior.prompt if spec.recipe.prior is not None else None
    return prompt or f"a photo of a {spec.class_noun}"
