"""A bundle's tensors, checked against a base and sorted by its layers, for serving and for checks of what was made.

Knows diffusers' LoRA key names and the bundle. Refuses to guess: a key that binds no layer, a wrong shape or rank, or a
value that is not finite is a BundleError that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lorafleet.bundle.bundle import EMBEDDINGS, WEIGHTS, Bundle, Trigger, read_bundle
from lorafleet.errors import BundleError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.factors import Factors, Layers
from lorafleet.numerics.rowlora import LayerShape
from lorafleet.numerics.text import Piece, Vectors
from lorafleet.targets import PARTS, UNET

Kind = Literal["A", "B", "m"]
ENDINGS: dict[str, Kind] = {
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_magnitude_vector": "m",
    ".lora_magnitude_vector.weight": "m",
}
Shapes = Mapping[str, Mapping[str, LayerShape]]


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter ready to be stacked, fp32 in host memory."""

    name: str
    parts: Mapping[str, Layers]
    """Factors by part (`lorafleet.targets.PARTS`) and layer; alpha / rank is folded into B, DoRA's norms are set."""
    vectors: Vectors | None
    """Learned tokens [n, w1] and [n, w2]."""
    triggers: tuple[Trigger, ...]
    vectors_sha256: str
    """Identifies the learned tokens; empty without."""
    weights_sha256: str = ""
    """Identifies the LoRA; empty without."""

    def layers(self, part: str) -> Layers:
        """The factors on one part; empty if it is left alone."""
        return self.parts.get(part, {})

    @property
    def touches_text(self) -> bool:
        """Whether it changes the text encoders, and so how any prompt is encoded."""
        return any(self.parts.get(part) for part in PARTS[1:])

    @property
    def nbytes(self) -> int:
        """Bytes held in host memory."""
        tensors = [t for layers in self.parts.values() for factors in layers.values() for t in factors.tensors()]
        return sum(tensor.nbytes for tensor in (*tensors, *(self.vectors or ())))

    def trigger_table(self) -> dict[str, Piece]:
        """What its triggers and abstractions stand for in a prompt where it is the only adapter."""
        return trigger_table(self.triggers)


def trigger_table(triggers: Sequence[Trigger], first_row: int = 0, abstractions: bool = True) -> dict[str, Piece]:
    """What each trigger stands for in a prompt: rows of learned tokens, or plain text where it has none.

    `first_row` is where the triggers' own token vectors begin in a table that several adapters share. Without
    `abstractions` only `<name>` stands for anything, and a bare `TOK` is plain text.
    """
    table: dict[str, Piece] = {}
    for trigger in triggers:
        piece: Piece = tuple(first_row + row for row in trigger.tokens) or trigger.text
        table[trigger.trigger] = piece
        if abstractions:
            table[trigger.abstraction] = piece
    return table


def load_adapter(bundle: Bundle | Path, loaded: LoadedBase) -> Adapter:
    """Reads, verifies and checks a bundle for a base; BundleError (WrongBaseError) says what does not fit."""
    if isinstance(bundle, Path):
        bundle = read_bundle(bundle, loaded.base)
    adapter = check_adapter(bundle, {part: lora.shapes() for part, lora in loaded.lora.items()}, loaded.prompts.widths)
    parts = {part: loaded.lora[part].with_norms(layers) for part, layers in adapter.parts.items()}
    return replace(adapter, parts=parts)


def check_adapter(bundle: Bundle, shapes: Shapes, widths: tuple[int, int]) -> Adapter:
    """A bundle's tensors by part and layer, checked against the layers' shapes and token widths."""
    card = bundle.card
    by_layer: dict[tuple[str, str], dict[Kind, Tensor]] = {}
    for key, tensor in bundle.weights().items():
        part, layer, kind = _bind(card.name, key, shapes)
        tensors = by_layer.setdefault((part, layer), {})
        if kind in tensors:
            raise BundleError(
                f"adapter {card.name!r}: {key!r} gives layer {layer!r} its {kind} a second time; train again"
            )
        rank = card.rank if part == UNET else card.text_encoder_rank
        checked = _checked(card.name, key, tensor, factor_shape(kind, rank, shapes[part][layer]))
        tensors[kind] = checked.flatten(0 if kind == "m" else 1)
    vectors = _vectors(bundle, widths)
    if not by_layer and vectors is None:
        raise BundleError(f"adapter {card.name!r} binds no layer and has no learned tokens; train or fetch it again")
    parts: dict[str, dict[str, Factors]] = {}
    for (part, layer), tensors in by_layer.items():
        parts.setdefault(part, {})[layer] = _factors(card.name, layer, tensors, card.scale)
    return Adapter(
        card.name, parts, vectors, card.triggers, card.sha256.get(EMBEDDINGS, ""), card.sha256.get(WEIGHTS, "")
    )


def _bind(name: str, key: str, shapes: Shapes) -> tuple[str, str, Kind]:
    part, _, rest = key.partition(".")
    for ending, kind in ENDINGS.items():
        layer = rest.removesuffix(ending)
        if part != UNET:
            layer = layer.removeprefix("text_model.")  # some versions of transformers have it, others do not
        if rest.endswith(ending) and layer in shapes.get(part, {}):
            return part, layer, kind
    raise BundleError(
        f"adapter {name!r}: {key!r} binds no layer of this base; LoRA and DoRA of linear layers and convolutions are "
        "served"
    )


def factor_key(part: str, layer: str, kind: Kind) -> str:
    """The key of a layer's tensor within its part in a bundle, as PEFT spells it.

    transformers' loader wants the magnitudes of text encoders under the whole parameter's name, with `.weight`; without
    that it leaves them out of what it loads, begins with fresh ones, and only warns.
    """
    if part == UNET:
        return f"{layer}.{'lora_magnitude_vector' if kind == 'm' else f'lora_{kind}.weight'}"
    return f"text_model.{layer}.{'lora_magnitude_vector' if kind == 'm' else f'lora_{kind}'}.weight"


def factor_shape(kind: Kind, rank: int, layer: LayerShape) -> tuple[int, ...]:
    """The shape that PEFT gives a tensor in a file, for a layer of the given shape."""
    n_in, n_out, *kernel = layer
    ones = [1 for _ in kernel]
    return {"A": (rank, n_in, *kernel), "B": (n_out, rank, *ones), "m": (*ones[:1], n_out, *ones)}[kind]


def _factors(name: str, layer: str, tensors: Mapping[Kind, Tensor], scale: float) -> Factors:
    missing = [kind for kind in ("A", "B") if kind not in tensors]
    if missing:
        raise BundleError(f"adapter {name!r}: layer {layer!r} lacks its factor {missing[0]}; train or fetch it again")
    return Factors(tensors["A"], tensors["B"] * scale, tensors.get("m"))


def _checked(name: str, key: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape) != shape or not tensor.is_floating_point():
        raise BundleError(
            f"adapter {name!r}: {key!r} is {tensor.dtype} {list(tensor.shape)}; expected floats {list(shape)}"
        )
    if not torch.isfinite(tensor).all():
        raise BundleError(f"adapter {name!r}: {key!r} holds a value that is not finite; train it again")
    return tensor.float()


def _vectors(bundle: Bundle, widths: tuple[int, int]) -> Vectors | None:
    name, embeddings = bundle.card.name, bundle.embeddings()
    rows = [row for trigger in bundle.card.triggers for row in trigger.tokens]
    if not embeddings:
        if rows:
            raise BundleError(
                f"adapter {name!r}: its triggers name learned tokens, but it has none; train or fetch it again"
            )
        return None
    if set(embeddings) != {"clip_l", "clip_g"}:
        raise BundleError(f"adapter {name!r}: embeddings {sorted(embeddings)}; expected clip_l and clip_g")
    count = embeddings["clip_l"].shape[0] if embeddings["clip_l"].dim() else 0
    if rows and not 0 <= min(rows) <= max(rows) < count:
        raise BundleError(
            f"adapter {name!r}: its triggers name token rows {sorted(rows)}; it has rows 0 to {count - 1}"
        )
    clip_l, clip_g = (
        _checked(name, key, embeddings[key], (count, w)) for key, w in zip(("clip_l", "clip_g"), widths, strict=True)
    )
    return clip_l, clip_g
