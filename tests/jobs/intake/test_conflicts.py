"""Combinations that cannot be meant: each is refused by name, in one line that says what to do instead."""

import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lorafleet.bases import Base, find_base
from lorafleet.config import EarlyStop, Recipe
from lorafleet.numerics.build_objective import build_objective
from lorafleet_jobs.dataset.doctor import SubjectReport
from lorafleet_jobs.dataset.findings import Finding
from lorafleet_jobs.dataset.subjects import Subject
from lorafleet_jobs.intake.base_size import BaseSize, measure_base
from lorafleet_jobs.intake.conflicts import (
    compile_conflicts,
    early_stop_conflicts,
    prompt_conflicts,
    recipe_conflicts,
    subject_conflicts,
)
from lorafleet_jobs.intake.recipes import resolve_recipe
from lorafleet_jobs.jobspec import ImageSpec

EPSILON, EDM = find_base("toy-sdxl"), find_base("toy-playground")
SIZES = {base.name: measure_base(base) for base in (EPSILON, EDM)}


def size_of(base: Base) -> BaseSize:
    return SIZES[base.name]


def report(captions: list[str | None], prompt: str | None = None, errors: int = 0) -> SubjectReport:
    subject = Subject("rex", Path("/photos/rex"), "rex", "dog", prompt, "prompt")
    images = tuple(ImageSpec(file=f"{n}.png", caption=text, sha256=str(n)) for n, text in enumerate(captions))
    found = tuple(Finding(id="D016", level="error", message="no class") for _ in range(errors))
    return SubjectReport(subject, images, found)


def said(problems: Iterable[str]) -> str:
    """The one thing that is said."""
    [text] = problems
    assert "\n" not in text
    assert "; " in text, "a message ends with a remedy"
    return text


def about_words(recipe: Recipe, subject: SubjectReport, prompts: list[str]) -> list[str]:
    return [*subject_conflicts(recipe, subject), *prompt_conflicts(recipe, prompts)]


WRONG = [
    (
        EDM,
        {"objective": "edm"},
        "recipe.objective is edm, but base toy-playground is trained as a denoiser",
        "leave it",
    ),
    (EPSILON, {"objective": "edm"}, "over uniform timesteps and with this weighting that is the loss of", "lognormal"),
    (EPSILON, {"objective": "edm", "sigma_sampler": "uniform"}, "recipe.objective is edm, but over", "leave it out"),
    (EPSILON, {"objective": "edm", "min_snr_gamma": 5.0}, "recipe.objective is edm, but over", "weighting: none"),
    (EPSILON, {"objective": "edm", "weighting": "edm"}, "recipe.objective is edm, but over", "leave it out"),
    (EPSILON, {"weighting": "edm"}, "recipe.weighting is edm, but base toy-sdxl predicts noise (epsilon)", "min_snr"),
    (EPSILON, {"sigma_sampler": "uniform-grid"}, "sigma_sampler is uniform-grid, a grid of sigmas", "objective: edm"),
    (EDM, {"sigma_sampler": "uniform"}, "uniform over timesteps, but base toy-playground (EDM) has none", "lognormal"),
    (EDM, {"resolution": 40}, "recipe.resolution is 40, but base toy-playground halves it down to 1/16", "32 or 48"),
    (EPSILON, {"targets": ["to_q", "to_w"]}, "recipe.targets holds 'to_w', the end of no linear layer", "mean to_"),
    (EPSILON, {"targets": ["conv1"]}, "recipe.targets holds 'conv1', the end of no linear layer", "use attn"),
    (EDM, {"targets": ["ff.net.0.porj"]}, "'ff.net.0.porj', the end of no linear layer", "ff.net.0.proj"),
]
WRONG_ANYWHERE = [
    ({"lr_cycles": 3}, "recipe.lr_cycles is 3, but cosine has none", "use cosine_with_restarts"),
    ({"lr_power": 2.0, "lr_scheduler": "linear"}, "recipe.lr_power is 2.0, but linear has none", "use polynomial"),
    ({"lr_scheduler": "constant_with_warmup"}, "constant_with_warmup and warmup_steps 0", "use constant"),
    ({"optimizer": "adamw", "lr_scheduler": "polynomial", "learning_rate": 1e-8}, "polynomial ends at 1e-07", "linear"),
    ({"learning_rate": 1e-4}, "recipe.learning_rate is 0.0001, but Prodigy finds", "optimizer: adamw"),
    ({"preset": "face", "learning_rate": "3e-3"}, "recipe.learning_rate is 0.003, but Prodigy finds", "leave it out"),
    ({"caption": {"keep_tokens": 2}}, "keep_tokens is 2, but nothing is shuffled", "caption.shuffle: true"),
    ({"optimizer": "adamw", "text_encoder_learning_rate": 1e-5}, "text encoders are frozen", "text_encoder_lora"),
    ({"optimizer": "adamw", "pivotal": None, "token_learning_rate": 1e-3}, "no tokens are learned", "leave it out"),
    ({"sigma_sampler": {"name": "uniform-grid", "P_mean": 1.0}}, "has no P_mean and P_std", "use lognormal"),
    ({"precision": "fp16"}, "recipe.precision is fp16, whose small gradients vanish", "use bf16"),
    ({"prior": {"mode": "predict", "count": 9}}, "prior.count is 9, but mode predict", "mode generate"),
    ({"prior": {"mode": "generate", "prompt": "a TOK dog"}}, "'a TOK dog', which names the", "a photo of a dog"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "keys", "what", "remedy"), WRONG)
def test_refused_for_this_base(base: Base, keys: dict[str, Any], what: str, remedy: str) -> None:
    recipe = resolve_recipe(keys, toy=True)
    text = said(recipe_conflicts(recipe, base, size_of(base)))
    assert what in text
    assert remedy in text.split("; ", 1)[1]
    assert list(recipe_conflicts(recipe, None, None)) == []  # a base that is not here has nothing to say


@pytest.mark.parametrize(("keys", "what", "remedy"), WRONG_ANYWHERE)
def test_refused_for_any_base(keys: dict[str, Any], what: str, remedy: str) -> None:
    text = said(recipe_conflicts(resolve_recipe(keys, toy=True), None, None))
    assert what in text
    assert remedy in text.split("; ", 1)[1]


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is here")
def test_8_bit_adamw_without_its_package() -> None:
    text = said(recipe_conflicts(resolve_recipe({"optimizer": "adamw8bit"}, toy=True), None, None))
    assert text.endswith("needs bitsandbytes; pip install 'lorafleet[gpu]', or use adamw")


RIGHT = [
    (EPSILON, {"objective": "edm", "weighting": "edm", "sigma_sampler": "uniform-grid"}),
    (EPSILON, {"objective": "edm", "sigma_sampler": "lognormal"}),
    (EPSILON, {"objective": "edm", "weighting": "none"}),
    (EPSILON, {"learning_rate": 0.5}),
    (EPSILON, {"learning_rate": 1e-4, "optimizer": "adamw"}),
    (EPSILON, {"sigma_sampler": "lognormal", "min_snr_gamma": 5.0}),
    (EDM, {"weighting": "edm", "sigma_sampler": {"name": "lognormal", "P_mean": -0.4, "P_std": 1.0}}),
    (EDM, {"resolution": 64, "buckets": True}),
    (EPSILON, {"targets": ["to_q", "attn2.to_out.0", "ff.net.2", "time_embedding.linear_1"]}),
    (EPSILON, {"targets": ["nothing"], "unet_fraction": 0.0, "pivotal": {"fraction": 1.0}}),
    (EPSILON, {"lr_scheduler": "cosine_with_restarts", "lr_cycles": 3, "warmup_steps": 5}),
    (EPSILON, {"lr_scheduler": "polynomial", "lr_power": 2.0}),
    (EPSILON, {"lr_scheduler": "constant", "warmup_steps": 5}),
    (EDM, {"caption": {"shuffle": True, "keep_tokens": 2}, "precision": "bf16"}),
    (EDM, {"prior": {"mode": "generate", "count": 9, "prompt": "a photo of a dog"}}),
]


@pytest.mark.parametrize(("base", "keys"), RIGHT)
def test_not_refused(base: Base, keys: dict[str, Any]) -> None:
    assert list(recipe_conflicts(resolve_recipe(keys, toy=True), base, size_of(base))) == []


TWO = {"pivotal": {"abstractions": ["TOK", "TOK2"]}}
TURNED = {"pivotal": {"abstractions": ["TOK2", "TOK"]}}


@pytest.mark.parametrize(
    ("keys", "subject", "prompts", "what", "remedy"),
    [
        ({"warmup_steps": 40, "steps": "10/image"}, report([None] * 4), [], "rex trains for 40 steps", "raise"),
        (TWO, report([None]), [], "TOK2, but no text that rex", "write it"),
        (TWO, report(["a TOK dog"], "TOK TOK2"), [], "no text that rex", "captions"),
        ({}, report([None], "a TOK dog with TOK2"), [], "instance prompt of rex holds TOK2", "[TOK, TOK2]"),
        ({}, report(["TOK3 dog"]), [], "a caption of rex (0.png) holds TOK3, which is not learned", "remove it"),
        ({}, report([None]), ["TOK and TOK2"], "validation.prompts 'TOK and TOK2' holds TOK2", "pivotal.abstractions"),
        ({"caption": {"prefix": "TOK9, "}}, report([None]), [], "caption.prefix holds TOK9", "remove it"),
        (TURNED, report([None]), [], "abstractions starts with TOK2", "[TOK, TOK2]"),
    ],
)  # fmt: skip
def test_words_and_steps_of_a_subject(
    keys: dict[str, Any], subject: SubjectReport, prompts: list[str], what: str, remedy: str
) -> None:
    text = said(about_words(resolve_recipe(keys, toy=True), subject, prompts))
    assert what in text
    assert remedy in text.split("; ", 1)[1]


@pytest.mark.parametrize(
    ("keys", "subject"),
    [
        ({}, report([None], "a photo of TOK dog")),
        ({"warmup_steps": 39, "steps": "10/image"}, report([None] * 4)),
        (TWO, report(["TOK", "TOK2"])),
        ({**TWO, "caption": {"prefix": "TOK2, "}}, report(["a TOK dog"])),
        ({"pivotal": None}, report(["TOK7 is plain text here"])),
        ({"warmup_steps": 999}, report(["TOK4"], errors=1)),  # left out anyway
    ],
)
def test_words_that_fit(keys: dict[str, Any], subject: SubjectReport) -> None:
    assert about_words(resolve_recipe(keys, toy=True), subject, []) == []


def test_dropout_is_not_compiled():
    assert list(compile_conflicts(resolve_recipe({}, toy=True))) == []
    text = said(compile_conflicts(resolve_recipe({"dropout": 0.1}, toy=True)))
    assert "resources.compile is on" in text
    assert "set dropout to 0" in text


@pytest.mark.parametrize("sampler", [None, "uniform", "lognormal", "uniform-grid"])
@pytest.mark.parametrize("loss", [{}, {"weighting": "edm"}, {"weighting": "none"}, {"min_snr_gamma": 5.0}], ids=str)
def test_training_as_a_denoiser_is_refused_where_it_is_the_ordinary_loss_and_nowhere_else(
    sampler: str | None, loss: dict[str, Any]
) -> None:
    keys = {"sigma_sampler": sampler, **loss}
    plain = build_objective(EPSILON, Recipe.model_validate(keys if loss.get("weighting") != "edm" else {}))
    denoiser = build_objective(EPSILON, Recipe.model_validate({**keys, "objective": "edm"}))
    z, n = torch.ones(64, 1, 1, 1), torch.zeros(64, 1, 1, 1)
    seen = []
    for one in (plain, denoiser):
        sigma = one.draw(64, torch.Generator().manual_seed(0))
        noisy = one.noisy(z, n, sigma)
        seen.append((noisy.x, noisy.t.float(), one.weight(sigma)))
    same = all(torch.allclose(a, b, atol=1e-3) for a, b in zip(*seen, strict=True))
    recipe = resolve_recipe({**keys, "objective": "edm"}, toy=True)
    if same:
        assert "that is the loss of base toy-sdxl as it is" in said(recipe_conflicts(recipe, EPSILON, None))
    else:
        assert list(recipe_conflicts(recipe, EPSILON, None)) == []


def test_where_the_schedule_ends_in_pure_noise_a_denoiser_is_another_loss(tmp_path: Path) -> None:
    """The last level of such a schedule is infinite, which a denoiser does not draw."""
    for part in EPSILON.path.iterdir():
        if part.name != "scheduler":
            (tmp_path / part.name).symlink_to(part)
    (tmp_path / "scheduler").mkdir()
    config = EPSILON.scheduler | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert list(recipe_conflicts(resolve_recipe({"objective": "edm"}, toy=True), find_base(str(tmp_path)), None)) == []


ALL_ALONG = {"fraction": 1.0}
EARLY_BY_LOSS = EarlyStop(first=5, metric="loss")
OTHER_LOSS: dict[str, Any] = {
    "objective": "edm", "sigma_sampler": "lognormal", "weighting": "debiased", "min_snr_gamma": 5.0,
    "noise_offset": 0.1, "input_perturbation": 0.1, "masked_loss": 0.1, "prior": {"mode": "predict"}, "resolution": 64,
    "seed": 1, "batch_size": 2, "gradient_accumulation": 2, "caption": {"dropout": 0.1}, "buckets": True,
    "crop": "random", "flip": True, "repeats": 2, "dropout": 0.1,
}  # fmt: skip
SAME_LOSS: dict[str, Any] = {
    "preset": "other", "steps": 400, "rank": 16, "alpha": 4.0, "dora": True, "targets": "attn+ff", "unet_fraction": 0.5,
    "text_encoder_lora": True, "pivotal": None, "ema": 0.9, "optimizer": "adamw", "learning_rate": 0.5,
    "optimizer_options": {"d_coef": 2.0}, "text_encoder_learning_rate": 1.0, "token_learning_rate": 1.0,
    "lr_scheduler": "linear", "warmup_steps": 5, "lr_cycles": 2, "lr_power": 2.0, "max_grad_norm": None,
    "gradient_checkpointing": True, "precision": "bf16", "workers": 1, "rslora": False,
}  # fmt: skip


def early_stop_over(key: str, value: Any) -> list[str]:
    recipes = [Recipe(pivotal=ALL_ALONG), Recipe.model_validate({"pivotal": ALL_ALONG, key: value})]
    return list(early_stop_conflicts(EARLY_BY_LOSS, recipes, [report(["TOK"])], None))


def test_every_key_is_among_those_over_which_losses_compare_or_not() -> None:
    assert SAME_LOSS.keys() | OTHER_LOSS.keys() == Recipe.model_fields.keys()


@pytest.mark.parametrize("key", OTHER_LOSS)
def test_an_early_stop_by_loss_over_what_changes_the_loss_or_what_is_drawn(key: str) -> None:
    text = said(early_stop_over(key, OTHER_LOSS[key]))
    assert f"metric is loss, and the sweep varies {key}, with which losses do not" in text


@pytest.mark.parametrize("key", SAME_LOSS)
def test_an_early_stop_by_loss_over_what_leaves_the_draws_alone(key: str) -> None:
    assert early_stop_over(key, SAME_LOSS[key]) == []
