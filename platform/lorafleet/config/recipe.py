"""A recipe: the hyperparameters of one training. Knows names, bounds and defaults; refuses to know their use.

What can be wrong with a recipe alone is refused here; what is wrong for a particular base or dataset, before anything
starts, by `lorafleet_jobs.intake.conflicts`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lorafleet.config.parts import (
    CaptionSpec,
    OptimizerOptions,
    PivotalSpec,
    PriorSpec,
    SigmaSampler,
    Steps,
    TextEncoderLora,
    whole_number,
)  # fmt: skip
from lorafleet.config.strict import Strict
from lorafleet.targets import ALL_LINEAR, PRESETS

Optimizer = Literal["prodigy", "adamw", "adamw8bit", "lion", "adafactor"]
Schedule = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
Weighting = Literal["none", "edm", "min_snr", "debiased"]
LEARNING_RATES: dict[Optimizer, float] = {
    "prodigy": 1.0, "adamw": 1e-4, "adamw8bit": 1e-4, "lion": 3e-5, "adafactor": 1e-3,
}  # fmt: skip
"""Where a recipe names none. Prodigy's is a factor of its own estimate. AdamW: diffusers' default. Lion: 3 to 10 times
less than AdamW (Chen et al. 2023, section 5). Adafactor: relative to the size of a matrix, the customary 1e-3.

The text encoders have the UNet's, as in sd-scripts. diffusers' scripts take 5e-6, a twentieth, at which text encoders
learn nothing on the toy bases (`docs/log.md`)."""
TOKEN_FACTOR = 3.0
"""Learned tokens' rate over the UNet's; cog-sdxl has 3e-4 beside 1e-4."""


class Recipe(Strict):
    """Everything that shapes one training and is not the data."""

    preset: str = "object"
    """Sets what the manifest leaves out: object, face, style, character, pivotal, dora, fast."""
    steps: int | str = 200
    """Optimizer steps: 1200, "120/image", or "120/image, 500 to 1500"."""

    # ---- what is learned
    rank: Annotated[int, Field(ge=1, le=256)] = 8
    """The rank of the low-rank factors (Hu et al. 2021)."""
    alpha: Annotated[float, Field(gt=0, le=1024)] | None = None
    """LoRA scale numerator; `rank` by default, so that the scale is 1 (with rslora: sqrt(rank), the same)."""
    rslora: bool = False
    """Scale alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023)."""
    dora: bool = False
    """Weight decomposition: direction by LoRA, magnitude by a vector of its own (Liu et al. 2024)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the input of the low-rank path."""
    targets: str | tuple[str, ...] = "attn"
    """Which UNet layers carry an adapter: attn, attn+ff, all-linear, or a list of ends of layer names."""
    unet_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The UNet's adapter is trained for this fraction of the steps; 0 leaves the UNet alone (textual inversion)."""
    text_encoder_lora: TextEncoderLora | None = None
    """LoRA on both text encoders; `true` stands for its defaults."""
    pivotal: PivotalSpec | None = PivotalSpec()
    """Learned tokens; null for none."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average over the steps; the average is what is published."""

    # ---- how it is learned
    objective: Literal["edm"] | None = None
    """By default what the base's scheduler says; `edm` trains an epsilon or v base as a denoiser (Karras 2022)."""
    sigma_sampler: SigmaSampler | None = None
    """How noise levels are drawn; by default uniform over timesteps, on EDM bases lognormal by the latent's side."""
    weighting: Weighting | None = None
    """How the loss is weighted by noise level; by default none (edm on EDM), or min_snr where min_snr_gamma is set."""
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    """Bounds the weight of little noise (Hang et al. 2023); 5 is customary. Works on EDM and v bases too."""
    noise_offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Adds this much noise that is constant over a channel, so that brightness is learned too (Guttenberg 2023)."""
    input_perturbation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Extra noise on the network's input alone, not on its target (Ning et al. 2023)."""
    optimizer: Optimizer = "prodigy"
    """prodigy finds its own rate; adamw8bit needs a GPU and bitsandbytes."""
    optimizer_options: OptimizerOptions = OptimizerOptions()
    """What the optimizer takes besides its rate."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """1.0 for Prodigy, which finds its own; 1e-4 for AdamW, 3e-5 for Lion, 1e-3 for Adafactor."""
    text_encoder_learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """For the text encoders' LoRA; `learning_rate` by default."""
    token_learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """For the learned tokens; three times `learning_rate` by default, with Prodigy the same."""
    lr_scheduler: Schedule = "constant"
    """How the rate changes over the steps, as in diffusers."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises from 0."""
    lr_cycles: Annotated[int, Field(ge=1)] = 1
    """How many cycles cosine_with_restarts has."""
    lr_power: Annotated[float, Field(gt=0)] = 1.0
    """The exponent of polynomial."""
    batch_size: Annotated[int, Field(ge=1, le=64)] = 1
    """Images of a micro-batch."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=1024)] = 1
    """Micro-batches of a step."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The norm to which gradients are clipped; null for no clipping."""
    gradient_checkpointing: bool | Literal["auto"] = False
    """Recomputes activations in the backward pass instead of keeping them: less memory, more time, the same result but
    for rounding. With auto the plan decides by the memory that a lane has."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """The precision of the frozen base. The adapter, the noise and the loss are always fp32."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """All random numbers of the job are functions of it."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes, each with its own GPU, that share a step's micro-batches; with more than one the job has no pack.

    The result is the same but for the order of additions."""

    # ---- on which data
    resolution: Annotated[int, Field(ge=32, le=2048, multiple_of=8)] | None = None
    """Pixels of a side, or with buckets of the square of the same area; the base's own by default."""
    buckets: bool = False
    """Keeps each image's shape: it is cut to the nearest of a family of sizes with about the same area."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 1
    """How often an image is drawn in one epoch."""
    flip: bool = False
    """Each draw of an image is mirrored half of the time; leave it off for faces and anything with letters."""
    crop: Literal["center", "random"] = "center"
    """Where an image is cut to its size; random draws the place anew each time the image is drawn."""
    masked_loss: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Uses `name-mask.png` beside an image: black pixels count this much, white ones fully; null ignores masks."""
    caption: CaptionSpec = CaptionSpec()
    """What is done to captions when they are drawn."""
    prior: PriorSpec | None = None
    """Prior preservation: keeps what the class is while the subject is learned; null for none."""

    @field_validator("steps", mode="before")
    @classmethod
    def _steps_make_sense(cls, value: Any) -> Any:
        Steps.parse(value)
        whole = whole_number(value)
        return value if whole is None else whole

    @field_validator("targets")
    @classmethod
    def _targets_are_known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str) and value not in (*PRESETS, ALL_LINEAR):
            allowed = ", ".join((*PRESETS, ALL_LINEAR))
            raise ValueError(f"allowed are {allowed}, or a list of ends of layer names, as in [to_q, to_v]")
        if not value or not all(value):
            raise ValueError("give at least one layer; to leave the UNet alone set unet_fraction: 0")
        return value

    @field_validator("sigma_sampler", mode="before")
    @classmethod
    def _a_name_is_a_sampler(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("text_encoder_lora", mode="before")
    @classmethod
    def _true_is_the_defaults(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @model_validator(mode="after")
    def _keys_agree(self) -> Recipe:
        if self.optimizer == "prodigy":
            for key in ("text_encoder_learning_rate", "token_learning_rate"):
                if getattr(self, key) not in (None, self.learning_rate if self.learning_rate is not None else 1.0):
                    raise ValueError(f"Prodigy estimates one rate for all parameters; leave {key} out, or use adamw")
        if self.weighting not in (None, "min_snr") and self.min_snr_gamma is not None:
            raise ValueError(f"min_snr_gamma says weighting min_snr, weighting says {self.weighting}; leave one out")
        if self.unet_fraction == 0 and self.pivotal is None and self.text_encoder_lora is None:
            raise ValueError("nothing is learned: unet_fraction is 0, and neither pivotal nor text_encoder_lora is set")
        ends = [self.unet_fraction] + [part.fraction for part in (self.pivotal, self.text_encoder_lora) if part]
        if max(ends) < 1:
            raise ValueError(
                f"after {max(ends):.0%} of the steps nothing is learned any more; set one of pivotal.fraction, "
                "text_encoder_lora.fraction and unet_fraction to 1"
            )
        if self.rslora and self.alpha is None:
            raise ValueError("rslora changes nothing while alpha is unset (the scale is 1); set alpha")
        if self.dora and self.dropout:
            raise ValueError("dropout and dora together would drop direction but not magnitude; use one of them")
        if self.gradient_accumulation % self.workers:
            raise ValueError(
                f"workers is {self.workers}, which share gradient_accumulation's {self.gradient_accumulation} "
                "micro-batches evenly; make that a multiple"
            )
        self.optimizer_options.check(self.optimizer)
        return self

    @property
    def trains_unet(self) -> bool:
        """Whether the UNet gets an adapter."""
        return self.unet_fraction > 0

    @property
    def scheme(self) -> Weighting | None:
        """The weighting that was asked for, by its own key or by `min_snr_gamma`; None: the objective's own."""
        return "min_snr" if self.min_snr_gamma is not None else self.weighting

    def step_count(self, images: int) -> int:
        """Optimizer steps for a subject of `images` images."""
        return Steps.parse(self.steps).count(images)

    def rate_of(self, kind: Literal["unet", "text", "tokens"]) -> float:
        """The learning rate of the UNet's adapter, the text encoders' or the tokens; with Prodigy always the same."""
        rate = self.learning_rate if self.learning_rate is not None else LEARNING_RATES[self.optimizer]
        if kind == "unet" or self.optimizer == "prodigy":
            return rate
        if kind == "text":
            return self.text_encoder_learning_rate if self.text_encoder_learning_rate is not None else rate
        return self.token_learning_rate if self.token_learning_rate is not None else TOKEN_FACTOR * rate

    def scale(self) -> float:
        """The LoRA scale alpha / rank (Hu et al. 2021, section 4.1), or alpha / sqrt(rank) with rslora."""
        divisor = self.rank**0.5 if self.rslora else self.rank
        return self.alpha / divisor if self.alpha is not None else 1.0
