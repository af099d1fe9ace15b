"""Learning rates of each kind of parameters, where a recipe leaves them open. Imports no torch: `plan` asks too."""

from __future__ import annotations

from typing import Literal

from lorafleet.config import Recipe

RATES = {"prodigy": 1.0, "adamw": 1e-4, "adamw8bit": 1e-4, "lion": 3e-5, "adafactor": 1e-3}
"""Prodigy's is a factor of its own estimate. AdamW: diffusers' default. Lion: 3 to 10 times less than AdamW (Chen et
al. 2023, section 5). Adafactor: relative to the size of a matrix, the customary 1e-3.

The text encoders have the UNet's, as in sd-scripts. diffusers' scripts take 5e-6, a twentieth, at which text encoders
learn nothing on the toy bases (`docs/log.md`)."""
TOKEN_FACTOR = 3.0
"""Of the rate of learned tokens; cog-sdxl's 3e-4 beside 1e-4."""


def rate_of(recipe: Recipe, kind: Literal["unet", "text", "tokens"]) -> float:
    """The learning rate of the UNet's adapter, the text encoders' or the tokens; with Prodigy always the same."""
    rate = recipe.learning_rate if recipe.learning_rate is not None else RATES[recipe.optimizer]
    if kind == "unet" or recipe.optimizer == "prodigy":
        return rate
    if kind == "text":
        return recipe.text_encoder_learning_rate if recipe.text_encoder_learning_rate is not None else rate
    return recipe.token_learning_rate if recipe.token_learning_rate is not None else TOKEN_FACTOR * rate
