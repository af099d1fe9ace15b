"""Combinations that cannot be meant, refused by name before anything starts: what, why, what to use instead.

`recipe_conflicts` knows a recipe and its base, `subject_conflicts` the texts of a subject. What is wrong with one key
alone is refused by `Recipe` itself; what is wrong with a picture is the doctor's to say. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from lorafleet.bases import Base
from lorafleet.config import EarlyStop, Recipe
from lorafleet.config.parts import PriorSpec, SigmaSampler
from lorafleet.targets import UNET, select
from lorafleet.toy.world import CLASSES
from lorafleet_jobs.dataset.class_images import ClassFolder
from lorafleet_jobs.dataset.doctor import SubjectReport
from lorafleet_jobs.dataset.findings import some
from lorafleet_jobs.intake.base_size import BaseSize

LEAST_POLYNOMIAL_RATE = 1e-7
"""Where diffusers' polynomial schedule ends."""
LEAST_PRODIGY_RATE = 0.1
"""Prodigy's rate is a factor of the one that it finds: at AdamW's 1e-4 nothing is learned."""
LOSSES_COMPARE = (
    "preset", "steps", "rank", "alpha", "rslora", "dora", "targets", "unet_fraction", "text_encoder_lora", "pivotal",
    "ema", "optimizer", "optimizer_options", "learning_rate", "text_encoder_learning_rate", "token_learning_rate",
    "lr_scheduler", "warmup_steps", "lr_cycles", "lr_power", "max_grad_norm", "gradient_checkpointing", "precision",
    "workers",
)  # fmt: skip
"""Keys over which losses compare: what is learned and how. Every other key changes what a loss measures, or which
images, levels and noise are drawn, whose luck is larger than what training changes."""
_WORD = re.compile(r"\bTOK\d*\b")
_NAMES = {"epsilon": "noise (epsilon)", "v_prediction": "velocity", "edm": "as a denoiser (EDM)"}


def recipe_conflicts(recipe: Recipe, base: Base | None, size: BaseSize | None) -> Iterator[str]:
    """What cannot be meant by a recipe; without a base on this machine only what is wrong with any base."""
    yield from _about_schedule(recipe)
    yield from _about_nothing(recipe)
    yield from _about_prior(recipe)
    yield from _about_machine(recipe)
    if base is not None:
        yield from _about_objective(recipe, base)
        yield from _about_resolution(recipe, base)
    if size is not None:
        yield from _about_targets(recipe, size)


def class_image_conflicts(folders: Sequence[ClassFolder], base: Base) -> Iterator[str]:
    """Class images that another base made: its licence may forbid to train others on them."""
    for folder in folders:
        if folder.made_by and not base.is_named(folder.made_by):
            yield (
                f"prior.images {folder.written!r} were made by the base {folder.made_by}, and this one is "
                f"{base.fingerprint}; its licence may forbid that: say prior: {{mode: generate}}, or give photos"
            )


def subject_conflicts(recipe: Recipe, report: SubjectReport) -> Iterator[str]:
    """Learned words that no text of a subject holds, texts with words that are not learned, late warm-ups.

    Of a subject that is left out anyway nothing is said.
    """
    if not report.errors:
        yield from _about_steps(recipe, report)
        yield from _about_words(recipe, report)


def prompt_conflicts(recipe: Recipe, prompts: Sequence[str]) -> Iterator[str]:
    """Words of the caption prefix and of validation's `prompts` that are not learned."""
    if recipe.pivotal is not None:
        named = [("recipe.caption.prefix", recipe.caption.prefix)]
        named += [(f"validation.prompts {text!r}", text) for text in prompts]
        yield from (problem for what, text in named for problem in _unknown_words(recipe, what, text))


def compile_conflicts(recipe: Recipe) -> Iterator[str]:
    """What torch.compile cannot trace; ask where resources.compile is on."""
    if recipe.dropout:
        yield (
            f"resources.compile is on, and masks of recipe.dropout {recipe.dropout} cannot be traced; "
            "set dropout to 0, or leave compile out"
        )


def early_stop_conflicts(
    early: EarlyStop, recipes: Sequence[Recipe], reports: Sequence[SubjectReport], base: Base | None
) -> Iterator[str]:
    """An early stop that could compare nothing, or what cannot be compared.

    `recipes` are those that are compared: of one subject's points. `reports` are those of the subjects that have them.
    """
    good = [report for report in reports if not report.errors]
    yield from _about_metric(early, recipes)
    yield from _about_first(early, recipes, good)
    if base is not None:
        yield from _about_judge(early, good, base)


def _about_metric(early: EarlyStop, recipes: Sequence[Recipe]) -> Iterator[str]:
    others = [key for key in Recipe.model_fields if key not in LOSSES_COMPARE]
    varied = [key for key in others if len({repr(getattr(recipe, key)) for recipe in recipes}) > 1]
    if early.metric == "loss" and varied:
        yield (
            f"early_stop.metric is loss, and the sweep varies {varied[0]}, with which losses do not compare; use a "
            "metric of pictures, or leave early_stop out"
        )
    if early.weights is not None and not (Path(early.weights) / "config.json").is_file():
        yield f"early_stop.weights: {early.weights} is no folder that transformers' save_pretrained wrote; correct it"


def _about_first(early: EarlyStop, recipes: Sequence[Recipe], reports: Sequence[SubjectReport]) -> Iterator[str]:
    longest = max((recipe.step_count(len(one.images)) for recipe in recipes for one in reports), default=None)
    if longest is not None and early.first >= longest:
        yield f"early_stop.first is {early.first}, but no job takes more than {longest} steps; set it below"


def _about_judge(early: EarlyStop, reports: Sequence[SubjectReport], base: Base) -> Iterator[str]:
    if base.is_toy and early.needs_weights:
        yield f"early_stop.metric is {early.metric}, which says nothing about toy pictures; use score or loss"
    if not base.is_toy and early.metric == "score":
        yield (
            "early_stop.metric is score, the toy world's; a real base takes dino, clip-i, clip-t with weights, or loss"
        )
    nouns = [" ".join((report.subject.class_noun or "").split()) for report in reports]
    strange = [noun for noun in nouns if noun not in CLASSES]
    if early.metric == "score" and base.is_toy and strange:
        judged = ", ".join(CLASSES)
        yield f"early_stop.metric is score, and the toy world's judge knows no {strange[0]} ({judged}); use metric loss"


def _about_schedule(recipe: Recipe) -> Iterator[str]:
    name, rate, least = recipe.lr_scheduler, recipe.learning_rate, LEAST_POLYNOMIAL_RATE
    if recipe.lr_cycles != 1 and name != "cosine_with_restarts":
        yield f"recipe.lr_cycles is {recipe.lr_cycles}, but {name} has none; leave it out, or use cosine_with_restarts"
    if recipe.lr_power != 1 and name != "polynomial":
        yield f"recipe.lr_power is {recipe.lr_power}, but {name} has none; leave it out, or use polynomial"
    if name == "constant_with_warmup" and recipe.warmup_steps == 0:
        yield "recipe.lr_scheduler is constant_with_warmup and warmup_steps 0; set warmup_steps, or use constant"
    if name == "polynomial" and rate is not None and rate <= least:
        yield f"recipe.learning_rate is {rate}, but polynomial ends at {least}; raise it, or use linear"
    if recipe.optimizer == "prodigy" and rate is not None and rate < LEAST_PRODIGY_RATE:
        yield (
            f"recipe.learning_rate is {rate}, but Prodigy finds the rate itself and multiplies it by this, so that "
            "1 is usual and so little trains nothing; leave it out, or set optimizer: adamw"
        )


def _about_nothing(recipe: Recipe) -> Iterator[str]:
    """Keys that would change nothing."""
    keep, sampler = recipe.caption.keep_tokens, recipe.sigma_sampler
    if keep and not recipe.caption.shuffle:
        yield (
            f"recipe.caption.keep_tokens is {keep}, but nothing is shuffled; set caption.shuffle: true, or leave it out"
        )
    if recipe.text_encoder_learning_rate is not None and recipe.text_encoder_lora is None:
        yield (
            f"recipe.text_encoder_learning_rate is {recipe.text_encoder_learning_rate}, but the text encoders are "
            "frozen; leave it out, or set text_encoder_lora: true"
        )
    if recipe.token_learning_rate is not None and recipe.pivotal is None:
        yield (
            f"recipe.token_learning_rate is {recipe.token_learning_rate}, but pivotal is null, no tokens are learned; "
            "leave it out, or set pivotal"
        )
    if sampler is not None and sampler.name != "lognormal" and sampler != SigmaSampler(name=sampler.name):
        yield f"recipe.sigma_sampler {sampler.name} has no P_mean and P_std; leave them out, or use lognormal"


def _about_prior(recipe: Recipe) -> Iterator[str]:
    prior = recipe.prior
    if prior is None:
        return
    if prior.mode != "generate" and prior.count != PriorSpec(mode="generate").count:
        yield (
            f"recipe.prior.count is {prior.count}, but mode {prior.mode} generates nothing; leave it out, "
            "or use mode generate"
        )
    if prior.prompt is not None and _WORD.search(prior.prompt):
        yield (
            f"recipe.prior.prompt is {prior.prompt!r}, which names the subject; it is for the class alone, "
            "as in 'a photo of a dog'"
        )


def _about_machine(recipe: Recipe) -> Iterator[str]:
    if recipe.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        yield "recipe.optimizer is adamw8bit, which needs bitsandbytes; pip install 'lorafleet[gpu]', or use adamw"
    if recipe.precision == "fp16":
        yield "recipe.precision is fp16, whose small gradients vanish without loss scaling; use bf16"


def _about_objective(recipe: Recipe, base: Base) -> Iterator[str]:
    edm, says = base.prediction == "edm", f"base {base.name} predicts {_NAMES[base.prediction]}"
    if edm and recipe.objective == "edm":
        yield f"recipe.objective is edm, but base {base.name} is trained as a denoiser (EDM) by itself; leave it out"
    if not edm and recipe.objective == "edm" and _is_the_ordinary_loss(recipe, base):
        yield (
            f"recipe.objective is edm, but over uniform timesteps and with this weighting that is the loss of base "
            f"{base.name} as it is; add sigma_sampler: lognormal or weighting: none, or leave it out"
        )
    if not edm and recipe.objective is None:
        if recipe.weighting == "edm":
            yield f"recipe.weighting is edm, but {says}; use none or min_snr, or set objective: edm"
        if recipe.sigma_sampler is not None and recipe.sigma_sampler.name == "uniform-grid":
            yield (
                f"recipe.sigma_sampler is uniform-grid, a grid of sigmas, but {says} at timesteps; "
                "use uniform, or set objective: edm"
            )
    if edm and recipe.sigma_sampler is not None and recipe.sigma_sampler.name == "uniform":
        yield (
            f"recipe.sigma_sampler is uniform over timesteps, but base {base.name} (EDM) has none; "
            "use lognormal or uniform-grid"
        )


def _is_the_ordinary_loss(recipe: Recipe, base: Base) -> bool:
    """Whether objective edm draws the levels that a base with timesteps draws by itself, and weighs them alike."""
    uniform = recipe.sigma_sampler is None or recipe.sigma_sampler.name == "uniform"
    endless = bool(base.scheduler.get("rescale_betas_zero_snr"))  # whose last level only timesteps have
    return uniform and recipe.scheme != "none" and not endless


def _about_resolution(recipe: Recipe, base: Base) -> Iterator[str]:
    unit = base.vae_factor * 2 ** (len(base.config("unet")["down_block_types"]) - 1)
    side = recipe.resolution
    if side is not None and side % unit:
        low, high = side // unit * unit, -(-side // unit) * unit
        near = f"{low} or {high}" if low else f"{high}"
        yield f"recipe.resolution is {side}, but base {base.name} halves it down to 1/{unit}; use {near}"


def _about_targets(recipe: Recipe, size: BaseSize) -> Iterator[str]:
    if isinstance(recipe.targets, str) or not recipe.trains_unet:
        return
    layers = size.layers[UNET]
    for end in recipe.targets:
        if select(layers, [end]):
            continue
        parts = end.count(".") + 1
        allowed = sorted({".".join(name.split(".")[-parts:]) for name in layers})
        near = get_close_matches(end, allowed, n=3, cutoff=0.5)
        remedy = f"did you mean {' or '.join(near)}?" if near else "use attn, attn+ff, all-linear, or ends such as to_q"
        yield f"recipe.targets holds {end!r}, the end of no linear layer's name in the UNet; {remedy}"


def _about_steps(recipe: Recipe, report: SubjectReport) -> Iterator[str]:
    steps = recipe.step_count(len(report.images))
    if recipe.warmup_steps >= steps:
        yield (
            f"recipe.warmup_steps is {recipe.warmup_steps}, but {report.name} trains for {steps} steps only; "
            "lower it, or raise steps"
        )


def _about_words(recipe: Recipe, report: SubjectReport) -> Iterator[str]:
    """Of the texts that the trainer will see of one subject; whether they hold TOK itself, the doctor says."""
    if recipe.pivotal is None:
        return
    first, *others = recipe.pivotal.abstractions
    if first != "TOK":
        yield f"recipe.pivotal.abstractions starts with {first}; the first is TOK, as in [TOK, TOK2]"
    noun = report.subject.class_noun or ""
    prompt = report.subject.instance_prompt or f"a photo of TOK {noun}"
    yield from _unknown_words(recipe, f"the instance prompt of {report.name}", prompt)
    captions = [image.caption if image.caption is not None else prompt for image in report.images]
    files: dict[str, list[str]] = {}
    for image in report.images:
        for word in dict.fromkeys(_WORD.findall(image.caption or "")):
            files.setdefault(word, []).append(image.file)
    for word, named in files.items():
        yield from _unknown_words(recipe, f"a caption of {report.name} ({some(named)})", word)
    seen = set(_WORD.findall(" ".join([recipe.caption.prefix, *captions])))
    for word in others:
        if word not in seen:
            yield (
                f"recipe.pivotal.abstractions holds {word}, but no text that {report.name} is trained with does; "
                "write it into instance_prompt or captions, or leave it out"
            )


def _unknown_words(recipe: Recipe, what: str, text: str) -> Iterator[str]:
    learned = recipe.pivotal.abstractions if recipe.pivotal is not None else ()
    for word in _WORD.findall(text):
        if word not in learned:
            allowed = ", ".join((*learned, word))
            yield f"{what} holds {word}, which is not learned; set pivotal.abstractions: [{allowed}], or remove it"
