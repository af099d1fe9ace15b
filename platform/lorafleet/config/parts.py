"""The nested pieces of a recipe: steps, tokens, text encoders, sigma samplers, optimizer options, captions, prior."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from lorafleet.config.strict import Strict

MAX_STEPS = 100_000
_PER_IMAGE = re.compile(r"^(\d+)\s*/\s*image(?:\s*,\s*(\d+)\s*to\s*(\d+))?$")
Abstraction = Annotated[str, StringConstraints(pattern=r"^TOK[0-9]*$")]


def whole_number(value: object) -> int | None:
    """A whole number as pydantic reads one: 20, 20.0 and "20"; None for anything else."""
    try:
        return None if isinstance(value, bool) else TypeAdapter(int).validate_python(value)
    except ValidationError:
        return None


@dataclass(frozen=True)
class Steps:
    """How many optimizer steps: a number, or so many an image, within bounds."""

    each: int
    per_image: bool = False
    least: int = 1
    most: int = MAX_STEPS

    @classmethod
    def parse(cls, value: object) -> Steps:
        """Reads a recipe's value; ValueError says what is allowed."""
        match = _PER_IMAGE.match(value.strip()) if isinstance(value, str) else None
        whole = whole_number(value)
        made = cls(whole) if whole is not None else None
        if match:
            bounds = (int(match[2]), int(match[3])) if match[2] else (1, MAX_STEPS)
            made = cls(int(match[1]), True, *bounds)
        if made is None or not (1 <= made.each <= MAX_STEPS and 1 <= made.least <= made.most <= MAX_STEPS):
            raise ValueError(
                f"allowed are 1 to {MAX_STEPS}, or steps per image as in '120/image' or '50/image, 500 to 1500'"
            )
        return made

    def count(self, images: int) -> int:
        """The number of steps for a subject of `images` images."""
        return min(max(self.each * images, self.least), self.most) if self.per_image else self.each


class PivotalSpec(Strict):
    """Pivotal tuning: learned tokens first, the UNet's adapter throughout (Roich et al. 2021; cog-sdxl)."""

    tokens: Annotated[int, Field(ge=1, le=8)] = 2
    """New tokens for each abstraction."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The tokens are trained for this fraction of the steps, then frozen; the UNet's adapter goes on."""
    init: str | dict[Abstraction, str] | None = None
    """A word whose embedding the tokens start from, or one for each abstraction.

    By default they start at random, at the vocabulary's scale.
    """
    abstractions: Annotated[tuple[Abstraction, ...], Field(min_length=1, max_length=8)] = ("TOK",)
    """The words of prompts and captions that are learned: TOK, TOK2 ..."""

    @model_validator(mode="after")
    def _abstractions_are_told_apart(self) -> PivotalSpec:
        if len(set(self.abstractions)) < len(self.abstractions):
            raise ValueError(f"abstractions {', '.join(self.abstractions)} repeat a word; give each its own number")
        extra = sorted(set(self.init) - set(self.abstractions)) if isinstance(self.init, dict) else []
        if extra:
            raise ValueError(f"init names {extra[0]}, which is not among abstractions {', '.join(self.abstractions)}")
        return self

    def init_of(self, abstraction: str) -> str | None:
        """The word that an abstraction's tokens start from."""
        return self.init.get(abstraction) if isinstance(self.init, dict) else self.init


class TextEncoderLora(Strict):
    """LoRA on q, k, v and out projections of both text encoders."""

    rank: Annotated[int, Field(ge=1, le=256)] | None = None
    """The recipe's rank by default; the scale is always the recipe's."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Trained for this fraction of the steps."""


class SigmaSampler(Strict):
    """How noise levels are drawn."""

    name: Literal["lognormal", "uniform-grid", "uniform"]
    """lognormal: ln sigma ~ N(P_mean, P_std^2) (Karras et al. 2022, table 1). uniform-grid: uniform over the rho = 7
    grid of 1000 sigmas, as diffusers draws for EDM bases. uniform: uniform over the base's timesteps."""
    P_mean: Annotated[float, Field(ge=-10, le=10)] | None = None
    """By default by the latent's side: -1.2 at 8, -0.4 at 64, -0.133 at 128 (`lorafleet.numerics.edm`)."""
    P_std: Annotated[float, Field(gt=0, le=10)] = 1.2
    """The spread of lognormal."""


LATER: Any = Field(default=None, exclude_if=lambda value: value is None)
"""Default of a key that older recipes lack: it is not written while unset, so that ids of their jobs do not change."""


class OptimizerOptions(Strict):
    """What an optimizer takes besides its learning rate; unset means the optimizer's own default."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    """Decoupled decay of the weights: by default 0.01 for Prodigy, 1e-4 for AdamW, 3e-4 for Lion, 0 for Adafactor."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = None
    """Decays of the two moments."""
    beta3: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of Prodigy's estimate; the square root of the second beta by default."""
    d0: Annotated[float, Field(gt=0, le=0.1)] | None = LATER
    """The rate that Prodigy starts from; by default 1e-6, from which it needs some 50 to 100 steps to grow."""
    d_coef: Annotated[float, Field(gt=0)] | None = None
    """A factor on Prodigy's estimate; 1 by default."""
    growth_rate: Annotated[float, Field(gt=1)] | None = LATER
    """By which factor Prodigy's rate may grow in a step, as in 1.02; by default without bound."""
    decouple: bool | None = None
    """Prodigy's weight decay as in AdamW; true by default."""
    bias_correction: bool | None = None
    """Adam's bias correction in Prodigy; true by default."""
    safeguard_warmup: bool | None = None
    """Keeps a warm-up from inflating Prodigy's estimate; true by default."""

    def check(self, optimizer: str) -> None:
        """ValueError for an option that the optimizer does not have, rather than leaving it out silently."""
        for key in self.model_dump(exclude_none=True):
            if key not in OPTIONS[optimizer]:
                allowed = ", ".join(OPTIONS[optimizer])
                owners = " or ".join(name for name, keys in OPTIONS.items() if key in keys)
                raise ValueError(f"{optimizer} has no option {key} ({allowed} are); leave it out, or use {owners}")


OPTIONS = {
    "prodigy": (
        "weight_decay", "betas", "beta3", "d0", "d_coef", "growth_rate", "decouple", "bias_correction",
        "safeguard_warmup",
    ),
    "adamw": ("weight_decay", "betas"),
    "adamw8bit": ("weight_decay", "betas"),
    "lion": ("weight_decay", "betas"),
    "adafactor": ("weight_decay",),
}  # fmt: skip


class CaptionSpec(Strict):
    """How captions are changed each time they are drawn."""

    prefix: Annotated[str, Field(max_length=200)] = ""
    """Text put before every caption, as in "a photo of TOK, "."""
    shuffle: bool = False
    """The parts between commas come in a new order each time; prefix and kept parts stay in front."""
    keep_tokens: Annotated[int, Field(ge=0, le=64)] = 0
    """How many parts at the front are not shuffled."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How often a caption is replaced by no caption, which guidance needs."""


class PriorSpec(Strict):
    """Prior preservation (Ruiz et al. 2022, section 3.2): class images besides the subject's in every batch."""

    mode: Literal["images", "generate", "predict"]
    """images: real ones from a folder. generate: made by the base once, shared by all jobs of the class. predict: the
    target is what the base itself predicts, so that nothing has to be generated."""
    images: str | None = None
    """The folder, relative to the manifest; `predict` without one uses the subject's own images."""
    count: Annotated[int, Field(ge=1, le=2000)] = 32
    """How many are generated."""
    prompt: Annotated[str, Field(min_length=1, max_length=400)] | None = None
    """The prompt of the class images; "a photo of a <class>" by default."""
    weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    """The weight of their loss relative to the subject's."""
    batch_size: Annotated[int, Field(ge=1, le=64)] | None = None
    """Class images in a batch; as many as the subject's by default."""

    @model_validator(mode="after")
    def _mode_and_images_agree(self) -> PriorSpec:
        if self.mode == "images" and self.images is None:
            raise ValueError("mode images needs images: a folder of class images; or use mode generate or predict")
        if self.mode == "generate" and self.images is not None:
            raise ValueError("mode generate makes its own images; leave images out, or use mode images")
        return self
