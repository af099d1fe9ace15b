"""Learned tokens that come with an imported file, and the triggers that stand for them in a prompt.

Knows the names that programs give them, and triggers. Refuses to know layers and bundles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from lorafleet.bundle.bundle import Trigger
from lorafleet.errors import BundleError
from lorafleet.formats.lora_files import ForeignLoRA, read_safetensors
from lorafleet.numerics.text import Vectors

ABSTRACTION = "TOK"
MAX_ABSTRACTIONS = 8
ENCODERS = ("clip_l", "clip_g")
COG_SDXL = {"text_encoders_0": "clip_l", "text_encoders_1": "clip_g"}
"""What Replicate's trainer calls the two text encoders in embeddings.pti."""


def learned_tokens(file: Path, lora: ForeignLoRA, words: str, embeddings: Path | None) -> Mapping[str, Vectors]:
    """Vectors by the name that they were trained as: those bundled with the file, or a textual inversion's.

    Raises BundleError where both are given, or words beside bundled ones.
    """
    if not lora.embeddings:
        return {} if embeddings is None else {embeddings.name: _vectors(embeddings)}
    if words or embeddings is not None:
        names, given = ", ".join(map(repr, lora.embeddings)), "--words" if words else "--embeddings"
        raise BundleError(f"{file.name}: it brings its own embeddings ({names}); leave {given} out")
    if len(lora.embeddings) > MAX_ABSTRACTIONS:
        raise BundleError(f"{file.name}: {len(lora.embeddings)} embeddings; at most {MAX_ABSTRACTIONS} are read")
    return lora.embeddings


def triggers_of(name: str, words: str, learned: Mapping[str, Vectors]) -> tuple[Trigger, ...]:
    """One trigger for each embedding, with an abstraction of its own; or one for `words`; or none."""
    if not learned:
        return (Trigger(trigger=f"<{name}>", abstraction=ABSTRACTION, text=words),) if words else ()
    made, first = [], 0
    for i, (vectors, _) in enumerate(learned.values(), 1):
        abstraction = ABSTRACTION if i == 1 else f"{ABSTRACTION}{i}"
        trigger = f"<{name}>" if i == 1 else f"<{name}/{abstraction}>"
        rows = tuple(range(first, first + len(vectors)))
        made.append(Trigger(trigger=trigger, abstraction=abstraction, tokens=rows))
        first += len(vectors)
    return tuple(made)


def token_notes(lora: ForeignLoRA, triggers: Sequence[Trigger]) -> list[str]:
    """Which trigger each embedding that came bundled with a file has become."""
    pairs = zip(lora.embeddings, triggers, strict=False)  # a file without any may have one trigger all the same
    return [f"the embedding {name!r} is {trigger.trigger} in a prompt" for name, trigger in pairs]


def embeddings_file(learned: Mapping[str, Vectors]) -> bytes:
    """The bundle's file of all the vectors, in the order that `triggers_of` counts their rows."""
    return bytes(save({key: torch.cat([pair[i] for pair in learned.values()]) for i, key in enumerate(ENCODERS)}))


def _vectors(file: Path) -> Vectors:
    """A textual inversion's clip_l and clip_g; serving's own check has the last word on their sizes."""
    tensors, _ = read_safetensors(file)
    named = {COG_SDXL.get(key, key): tensor for key, tensor in tensors.items()}
    rows = {len(tensor) if tensor.dim() else 0 for tensor in named.values()}
    if set(named) != set(ENCODERS) or len(named) != len(tensors) or len(rows) != 1 or 0 in rows:
        sizes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        raise BundleError(f"{file.name}: {sizes}; give a textual inversion for SDXL, as many rows clip_l as clip_g")
    return named["clip_l"], named["clip_g"]
