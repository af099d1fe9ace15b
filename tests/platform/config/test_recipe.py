"""Recipes: step rules and what is wrong with one alone."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lorafleet.config import Recipe
from lorafleet.config.parts import Steps
from lorafleet.config.strict import parse
from lorafleet.errors import ManifestError


@pytest.mark.parametrize(
    ("rule", "counts"),  # for 1, 6 and 40 images
    [
        (1200, (1200, 1200, 1200)),
        ("120/image", (120, 720, 4800)),
        (" 120 / image ", (120, 720, 4800)),
        ("50/image, 500 to 1500", (500, 500, 1500)),
        ("180/image,500to1500", (500, 1080, 1500)),
    ],
)
def test_steps(rule: int | str, counts: tuple[int, ...]) -> None:
    assert tuple(Recipe(steps=rule).step_count(images) for images in (1, 6, 40)) == counts


@pytest.mark.parametrize(
    "rule",
    [
        0,
        -3,
        100_001,
        "",
        "many",
        "0/image",
        "5/picture",
        "50/image, 9 to 3",
        "50/image, 0 to 3",
        "1e3",
        True,
        "7.5",
        7.5,
    ],
)
def test_steps_that_make_no_sense(rule: Any) -> None:
    with pytest.raises(ValueError, match="allowed are 1 to 100000, or steps per image"):
        Steps.parse(rule)


@pytest.mark.parametrize("written", [20, "20", 20.0, " 20 "])
def test_one_number_of_steps_is_one_recipe_however_it_is_written(written: Any) -> None:
    assert Recipe(steps=written).model_dump_json() == Recipe(steps=20).model_dump_json()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"pivotal": False},
            "m.yaml: pivotal is false; it must be a mapping of abstractions, fraction, init, tokens, or",
        ),
        ({"prior": False}, "weight, or null for none"),
        ({"prior": "generate"}, "prior is 'generate'; it must be a mapping of batch_size, count, images, mode,"),
        ({"masked_loss": False}, "masked_loss is false; it must be a number or null for none"),  # 0 ignores the black
        ({"rank": True}, "rank is true; it must be a number"),
        ({"targets": 5}, "targets is 5; it must be text or a list, as in [a, b]"),
        ({"targets": ["to_q", 7]}, "targets.1 is 7; it must be text; put it in quotes"),
        ({"optimizer_options": {"betas": [0.9]}}, "'optimizer_options.betas.1' is missing; add it"),
        ({"optimizer": "adam"}, "it must be 'prodigy', 'adamw', 'adamw8bit', 'lion' or 'adafactor'"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be a finite number or null"),
        ({"resolution": 100}, "resolution is 100; it must be a multiple of 8 or null"),
        ({"seed": 2**70}, "it must be below 9223372036854775808"),
        (
            {"pivotal": {"abstractions": ["tok"]}},
            "pivotal.abstractions.0 is 'tok'; it must be TOK, or TOK and a number",
        ),
    ],
)
def test_a_value_of_another_kind_is_said_in_words_of_yaml(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(Recipe, keys, "m.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"optimizer": "prodigy", "token_learning_rate": 1e-3}, "leave token_learning_rate out, or use adamw"),
        ({"weighting": "edm", "min_snr_gamma": 5.0}, "weighting says edm; leave one out"),
        ({"unet_fraction": 0.0, "pivotal": None}, "nothing is learned"),
        ({"unet_fraction": 0.5, "pivotal": {"fraction": 0.25}}, "after 50% of the steps nothing is learned any more"),
        ({"rslora": True}, "rslora changes nothing while alpha is unset"),
        ({"dora": True, "dropout": 0.1}, "use one of them"),
        ({"optimizer": "adamw", "optimizer_options": {"d_coef": 2.0}}, "adamw has no option d_coef"),
        ({"optimizer": "adafactor", "optimizer_options": {"betas": [0.9, 0.99]}}, "or use prodigy or adamw"),
        ({"targets": "attention"}, "allowed are attn, attn+ff, all-linear"),
        ({"targets": []}, "give at least one layer"),
        ({"pivotal": {"abstractions": ["TOK", "TOK"]}}, "repeat a word"),
        ({"pivotal": {"init": {"TOK2": "dog"}}}, "init names TOK2, which is not among abstractions TOK"),
        ({"prior": {"mode": "images"}}, "mode images needs images"),
        ({"prior": {"mode": "generate", "images": "x"}}, "mode generate makes its own images"),
    ],
)
def test_keys_that_disagree(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Recipe(**keys)
    assert said in str(caught.value)


def test_options_that_came_later_leave_older_recipes_as_they_were_written() -> None:
    """Job ids are made of it: what was trained before is not trained again."""
    assert list(Recipe().model_dump()["optimizer_options"]) == [
        "weight_decay", "betas", "beta3", "d_coef", "decouple", "bias_correction", "safeguard_warmup",
    ]  # fmt: skip
    told = Recipe(optimizer_options={"d0": 1e-3})
    assert told.model_dump()["optimizer_options"]["d0"] == 1e-3
    assert Recipe.model_validate_json(told.model_dump_json()) == told


def test_short_forms() -> None:
    assert Recipe(text_encoder_lora=True) == Recipe(text_encoder_lora={})
    assert Recipe(text_encoder_lora=False).text_encoder_lora is None
    assert Recipe(sigma_sampler="lognormal") == Recipe(sigma_sampler={"name": "lognormal"})
    assert Recipe(min_snr_gamma=3.0).scheme == "min_snr"


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({"rank": 8}, 1.0),
        ({"rank": 8, "alpha": 4}, 0.5),
        ({"rank": 16, "alpha": 8, "rslora": True}, 2.0),
    ],
)
def test_scale(keys: dict[str, Any], scale: float) -> None:
    assert Recipe(**keys).scale() == scale


def test_the_page_about_recipes_names_every_key_and_preset():
    """A key that users cannot read about is a key that they do not have."""
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text()
    missing = [key for key in Recipe.model_fields if f"`{key}" not in page and f"{key}:" not in page]
    assert missing == []
    presets = [file.stem for file in (Path(__file__).parents[3] / "jobs" / "recipes").glob("*.yaml")]
    assert [name for name in presets if f"| `{name}` |" not in page] == []
