"""A recipe: the hyperparameters of one training. Knows names, bounds and defaults; refuses to know their use."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lorafleet.config.strict import Strict

STEPS_PER_IMAGE = re.compile(r"^(\d+)\s*/\s*image$")


class PivotalSpec(Strict):
    """Pivotal tuning: learned tokens first, the UNet's adapter throughout (Roich et al. 2021; cog-sdxl)."""

    tokens: Annotated[int, Field(ge=1, le=8)] = 2
    """New tokens for each abstraction (`TOK`) of the instance prompt."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The tokens are trained for this fraction of the steps, then frozen; the UNet's adapter goes on."""
    init: str | None = None
    """A word whose embedding the tokens start from; by default they start at random, at the vocabulary's scale."""


class Recipe(Strict):
    """Everything that shapes one training and is not the data."""

    preset: str = "object"
    """Where the unset keys come from: a file of `jobs/recipes/`."""
    steps: int | str = 200
    """Optimizer steps, or "120/image"."""
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    alpha: Annotated[float, Field(gt=0, le=1024)] | None = None
    """LoRA scale numerator; `rank` by default, so that the scale is 1."""
    targets: Literal["attn"] = "attn"
    """Which UNet layers carry an adapter: `attn` is to_q, to_k, to_v and to_out.0 of every attention."""
    pivotal: PivotalSpec | None = PivotalSpec()
    """Learned tokens; null trains the UNet's adapter alone."""
    optimizer: Literal["prodigy", "adamw"] = "prodigy"
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """1.0 for Prodigy, which finds its own; 1e-4 for AdamW."""
    text_encoder_learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """For the learned tokens; `learning_rate` by default with Prodigy, 3e-4 with AdamW."""
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1, le=64)] = 1
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    resolution: Annotated[int, Field(ge=32, le=2048, multiple_of=8)] | None = None
    """Pixels of a side; the base's own by default."""
    flip: bool = False
    """Each draw of an image is mirrored half of the time; leave it off for faces and anything with letters."""
    gradient_checkpointing: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the frozen base. The adapter, the noise and the loss are fp32 always."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("steps")
    @classmethod
    def _steps_make_sense(cls, value: int | str) -> int | str:
        match = STEPS_PER_IMAGE.match(value) if isinstance(value, str) else None
        count = int(match[1]) if match else value
        if not isinstance(count, int) or not 1 <= count <= 100_000:
            raise ValueError("allowed are 1 to 100000, or steps per image as in '120/image'")
        return value

    @model_validator(mode="after")
    def _prodigy_wants_one_rate(self) -> Recipe:
        if self.optimizer == "prodigy" and self.text_encoder_learning_rate not in (None, self.learning_rate):
            raise ValueError("Prodigy estimates one rate for all parameters; leave text_encoder_learning_rate out")
        return self

    def step_count(self, images: int) -> int:
        """Optimizer steps for a subject of `images` images."""
        if isinstance(self.steps, int):
            return self.steps
        match = STEPS_PER_IMAGE.match(self.steps)
        assert match, self.steps  # the validator let it through
        return int(match[1]) * images

    def scale(self) -> float:
        """The LoRA scale alpha / rank (Hu et al. 2021, section 4.1)."""
        return (self.alpha if self.alpha is not None else self.rank) / self.rank
