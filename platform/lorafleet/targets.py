"""Which layers an adapter may change, by the names that users write. Imports no torch, because `plan` uses it too.

A UNet's presets and the ends of its modules' names:

    attn         to_q, to_k, to_v, to_out.0 of every attention (the reference scripts' choice)
    attn+ff      the transformer blocks' feed-forward layers as well (OneTrainer's "attn-mlp")
    all-linear   every linear layer: projections and time embeddings too (kohya's nearest relative)

A list is taken as ends of names. The text encoders' LoRA is trained on their attention's projections; kohya's relatives
also train the feed-forward layers, so those are served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PRESETS: dict[str, tuple[str, ...]] = {
    "attn": ("to_q", "to_k", "to_v", "to_out.0"),
    "attn+ff": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
}
ALL_LINEAR = "all-linear"
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_SERVED = (*TEXT, "fc1", "fc2")
UNET, TEXT_ENCODER, TEXT_ENCODER_2 = "unet", "text_encoder", "text_encoder_2"
PARTS = (UNET, TEXT_ENCODER, TEXT_ENCODER_2)
"""The models of a base that can carry LoRA; also the prefixes of diffusers' keys."""
TEXT_PARTS = (TEXT_ENCODER, TEXT_ENCODER_2)
"""The parts that encode prompts."""


def is_target(layer: str, targets: str | Sequence[str]) -> bool:
    """Whether a linear layer of that name is among the targets, a preset's name or the ends of names."""
    if targets == ALL_LINEAR:
        return True
    suffixes = PRESETS[targets] if isinstance(targets, str) else targets
    return any(layer == suffix or layer.endswith(f".{suffix}") for suffix in suffixes)


def select(layers: Iterable[str], targets: str | Sequence[str]) -> list[str]:
    """The target layers among the linear layers of a model, in their order."""
    return [layer for layer in layers if is_target(layer, targets)]
