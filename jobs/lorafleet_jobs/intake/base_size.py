"""The linear layers of a base, by its safetensors headers: names and sizes, without reading a weight or torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet.targets import PARTS, TEXT, TEXT_ENCODER, TEXT_ENCODER_2, UNET, select

VAE = "vae"
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Of a number, by the precision of a recipe."""


@dataclass(frozen=True)
class BaseSize:
    """What a base weighs, and where adapters can sit."""

    parts: Mapping[str, int]
    """How many numbers the UNet, both text encoders and the VAE hold, by `lorafleet.targets.PARTS` and `VAE`."""
    layers: Mapping[str, Mapping[str, tuple[int, int]]]
    """By `lorafleet.targets.PARTS`: the linear layers' (in, out) by name."""
    token_widths: tuple[int, int]
    """Of a learned token in the two text encoders."""
    text_layers: tuple[int, int]
    """How many transformer layers the two text encoders have."""

    @property
    def parameters(self) -> int:
        """Of all parts together."""
        return sum(self.parts.values())

    def bytes_at(self, precision: str) -> int:
        """Of the weights in memory: the VAE is fp32 always, the other parts are of the recipe's precision."""
        return self.parameters * BYTES[precision] + self.parts[VAE] * (BYTES["fp32"] - BYTES[precision])

    def adapter_parameters(self, recipe: Recipe) -> int:
        """Exactly how many numbers a job learns: A [r, in] and B [out, r] a layer, DoRA's magnitudes, token vectors."""
        count = 0
        if recipe.trains_unet:
            chosen = select(self.layers[UNET], recipe.targets)
            count += _factors([self.layers[UNET][name] for name in chosen], recipe.rank, recipe.dora)
        if recipe.text_encoder_lora is not None:
            rank = recipe.text_encoder_lora.rank or recipe.rank
            for part in (TEXT_ENCODER, TEXT_ENCODER_2):
                count += _factors(list(self.layers[part].values()), rank, recipe.dora)
        if recipe.pivotal is not None:
            count += len(recipe.pivotal.abstractions) * recipe.pivotal.tokens * sum(self.token_widths)
        return count


def measure_base(base: Base) -> BaseSize:
    """Counts a base's parameters and lists its layers by its safetensors headers. Raises BaseModelError."""
    parts = {part: {name: one.shape for name, one in base.tensors(part).items()} for part in (*PARTS, VAE)}
    parameters = {part: sum(prod(shape) for shape in shapes.values()) for part, shapes in parts.items()}
    layers = {part: dict(_linear(parts[part])) for part in PARTS}
    for part in (TEXT_ENCODER, TEXT_ENCODER_2):
        layers[part] = {name: layers[part][name] for name in select(layers[part], TEXT)}
    configs = base.config(TEXT_ENCODER), base.config(TEXT_ENCODER_2)
    widths, depths = ([int(config[key]) for config in configs] for key in ("hidden_size", "num_hidden_layers"))
    return BaseSize(parameters, layers, (widths[0], widths[1]), (depths[0], depths[1]))


def _factors(layers: list[tuple[int, int]], rank: int, dora: bool) -> int:
    return sum(rank * (n_in + n_out) + dora * n_out for n_in, n_out in layers)


def _linear(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """In a UNet every matrix called weight belongs to a linear layer; in a text encoder also to its embeddings."""
    for name, shape in shapes.items():
        if name.endswith(".weight") and len(shape) == 2:
            yield name.removesuffix(".weight"), (shape[1], shape[0])
