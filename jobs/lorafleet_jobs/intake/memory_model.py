"""What training takes of a lane's memory, by the base's sizes and the recipe's keys.

A lane's peak is the sum of what all its jobs share (the base, workspaces of kernels), of each job's adapter and
optimizer, and of the larger of two passing things: what a forward pass keeps for the backward pass, or a picture in the
VAE. Three figures, marked so, are fitted to the cells of `benchmarks/results/memory_cells.json`, measured on one NVIDIA
H200 with torch 2.11 on 2026-11-27; `benchmarks/memory/fit_memory.py` fits them again and prints the residuals. The
others are counted. Knows sizes; refuses to know cards and choices. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lorafleet.bases import Base
from lorafleet.config import Recipe
from lorafleet.targets import ALL_LINEAR, PRESETS, UNET, select
from lorafleet_jobs.intake.base_size import BYTES, BaseSize

MIB = 2**20
ROW_MIB = 5405.0
"""Fitted: of one 1024 px row in bf16, attention carrying LoRA. `benchmarks/memory/count_activations.py` counts
5393 without the factors' copy."""
CHECKPOINTED_ROW_MIB = 494.0
"""Fitted: the same with gradient checkpointing. Counted: 478."""
WORKSPACE_MIB = 88.0
"""Fitted: what no row and no job accounts for."""
ROW_SHARES = {"attn": (1.0, 1.23), "attn+ff": (1.19, 1.75), ALL_LINEAR: (1.23, 1.80)}
"""Counted: a row beside that of plain attention LoRA, by where the adapter sits: without and with DoRA or dropout (on
attention 1.37), either of which keeps each layer's output or input once more."""
CHECKPOINTED_SHARES = {"attn": 1.0, "attn+ff": 1.2, ALL_LINEAR: 1.7}
"""Counted: the same with gradient checkpointing, where one block at a time is whole; with DoRA or dropout at most."""
DROPOUT_SHARE = 1.37
TOKEN_BYTES, TOKENS = 34, 77
"""Bytes that a transformer layer in bf16 keeps of each token, over its width (Korthikanti et al. 2022, eq. 1, without
the attention matrix), and the tokens of a prompt: of the text encoders, where they or learned tokens are trained."""
TOY_ROW_MIB = 10.0
"""Of one row in fp32 at the base's own side; a batch of 8 added 37 MiB to a batch of 1."""
PICTURE_NUMBERS = 3 * 256
"""fp32 numbers a pixel while a picture is decoded: the last block's input, norm and activation, of 256 channels each.
Counted: 3.0 GiB at 1024 px; encoding takes 2.5."""
ADAPTER_COPIES = {"prodigy": 6.0, "adamw": 4.0, "adamw8bit": 2.5, "lion": 3.0, "adafactor": 2.1}
"""fp32 copies of the adapter: value, gradient, and what the optimizer keeps: two moments for AdamW (of 8 bits for
adamw8bit), for Prodigy its start and running numerator as well, one for Lion, rows and columns for Adafactor."""


@dataclass(frozen=True)
class LaneMemory:
    """MiB that a lane and its pack of like jobs take, by what takes them."""

    base: float
    """The frozen weights, and workspaces of kernels."""
    adapters: float
    """Of all jobs: parameters, gradients, what optimizers and averages keep."""
    activations: float
    """Of all rows of a call: what the forward pass keeps for the backward pass."""
    picture: float
    """One in the VAE: each job encodes its photos and decodes its validation pictures, one at a time."""

    def times(self, pack: int) -> LaneMemory:
        """With `pack` times the jobs: a mixed pack takes no more than one of its hungriest job alone."""
        return replace(self, adapters=pack * self.adapters, activations=pack * self.activations)

    @property
    def step(self) -> float:
        """The peak of a training step."""
        return self.base + self.adapters + self.activations

    @property
    def peak(self) -> float:
        """The peak of the lane's life; pictures are made between steps."""
        return self.base + self.adapters + max(self.activations, self.picture)


def job_memory(recipe: Recipe, base: Base, size: BaseSize) -> LaneMemory:
    """What a lane with one job of this recipe takes.

    Checkpointing that is left to the plan (`auto`) counts as none.
    """
    pixels = (recipe.resolution or base.resolution) ** 2
    return LaneMemory(
        base=size.bytes_at(recipe.precision) / MIB + (0.0 if base.is_toy else WORKSPACE_MIB),
        adapters=_adapter_mib(recipe, size),
        activations=rows_at_once(recipe) * _row_mib(recipe, base, size, pixels),
        picture=PICTURE_NUMBERS * BYTES["fp32"] * pixels / MIB,
    )


def rows_at_once(recipe: Recipe) -> int:
    """Rows of a micro-batch: the subject's and, with prior preservation, the class's."""
    others = 0 if recipe.prior is None else recipe.prior.batch_size or recipe.batch_size
    return recipe.batch_size + others


def _adapter_mib(recipe: Recipe, size: BaseSize) -> float:
    """Of one job: fp32 copies, and the factors once more in the base's precision, in which layers multiply them."""
    copies = ADAPTER_COPIES[recipe.optimizer] + (recipe.ema is not None)
    cast = 0 if recipe.precision == "fp32" else BYTES[recipe.precision]
    return size.adapter_parameters(recipe) * (BYTES["fp32"] * copies + cast) / MIB


def _row_mib(recipe: Recipe, base: Base, size: BaseSize, pixels: int) -> float:
    """Of one row: the UNet's part grows with the area, the text encoders' is there only while something in them learns.

    A caption of several chunks takes more than is counted here.
    """
    if base.is_toy:
        return TOY_ROW_MIB * pixels / base.resolution**2
    wide = BYTES[recipe.precision] / BYTES["bf16"]
    unet = _unet_row_mib(recipe, size)
    text = 0.0
    if recipe.pivotal is not None or recipe.text_encoder_lora is not None:
        numbers = sum(width * depth for width, depth in zip(size.token_widths, size.text_layers, strict=True))
        text = TOKEN_BYTES * TOKENS * numbers / MIB
    return wide * (unet * pixels / 1024**2 + text)


def _unet_row_mib(recipe: Recipe, size: BaseSize) -> float:
    """At 1024 px in bf16."""
    where = _preset_of(recipe, size)
    if recipe.gradient_checkpointing is True:
        return CHECKPOINTED_ROW_MIB * CHECKPOINTED_SHARES[where]
    plain, more = ROW_SHARES[where]
    if recipe.dropout and where == "attn":
        return ROW_MIB * DROPOUT_SHARE
    return ROW_MIB * (more if recipe.dora or recipe.dropout else plain)


def _preset_of(recipe: Recipe, size: BaseSize) -> str:
    """The smallest preset that has all layers which the adapter has."""
    if not recipe.trains_unet:
        return "attn"
    layers = size.layers[UNET]
    chosen = set(select(layers, recipe.targets))
    return next((name for name in PRESETS if chosen <= set(select(layers, name))), ALL_LINEAR)
