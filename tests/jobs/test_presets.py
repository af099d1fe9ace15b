"""Presets and overrides: what wins over what, and what is said about a key that does not exist."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.config import Manifest, Recipe
from lorafleet.errors import ManifestError
from lorafleet_jobs.presets import preset_names, resolve_recipe, resolve_sweep


def manifest(recipe: dict[str, object] | None = None, sweep: dict[str, list[object]] | None = None) -> Manifest:
    return Manifest.model_validate(
        {"name": "m", "subjects": [{"images": "a"}], "recipe": recipe or {}, "sweep": sweep or {}}
    )


def test_the_presets_there_are() -> None:
    assert preset_names() == ["character", "face", "fast", "object", "style"]


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("toy", [True, False])
def test_every_preset_is_a_recipe(name: str, toy: bool) -> None:
    recipe = resolve_recipe({"preset": name}, toy)
    assert recipe.preset == name
    assert recipe.precision == ("fp32" if toy else "bf16")
    assert recipe.pivotal is not None
    assert 20 <= recipe.step_count(5) <= 1500


def test_steps_go_with_images_on_real_bases() -> None:
    assert {name: resolve_recipe({"preset": name}, False).step_count(6) for name in preset_names()} == {
        "object": 300, "face": 450, "style": 720, "character": 1080, "fast": 100,
    }  # fmt: skip


def test_the_users_keys_win_and_the_rest_is_the_presets() -> None:
    assert resolve_recipe({}, toy=False).preset == "object"
    plain = resolve_recipe({"preset": "character"}, toy=False)
    mine = resolve_recipe({"preset": "character", "rank": 3, "pivotal": {"fraction": 0.25}}, toy=False)
    assert plain.pivotal is not None
    assert plain.pivotal.tokens == 4
    assert mine == plain.with_changes(rank=3, pivotal=plain.pivotal.with_changes(fraction=0.25))
    assert resolve_recipe({"pivotal": None}, toy=False).pivotal is None


def test_exponents_without_a_dot_are_numbers() -> None:
    assert resolve_recipe({"optimizer": "adamw", "learning_rate": "1e-4"}, toy=True).learning_rate == 1e-4


@pytest.mark.parametrize(
    ("recipe", "sweep", "said"),
    [
        ({"stepz": 3}, {}, "m.yaml: unknown key 'recipe.stepz'; did you mean 'recipe.steps'?"),
        ({"xyzzy": 3}, {}, "unknown key 'recipe.xyzzy'; known keys are alpha, batch_size"),
        ({"pivotal": {"tokns": 3}}, {}, "unknown key 'recipe.pivotal.tokns'; did you mean 'tokens'?"),
        ({"rank": 0}, {}, "m.yaml: recipe.rank is 0; Input should be greater than or equal to 1"),
        ({"steps": "many"}, {}, "allowed are 1 to 100000, or steps per image as in '120/image'"),
        ({"preset": "objekt"}, {}, "'recipe.preset' is 'objekt'; known presets are character, face, fast, object,"),
        ({"preset": "../recipes/object"}, {}, "'recipe.preset' is '../recipes/object'; known presets are"),
        ({"preset": ["object"]}, {}, "'recipe.preset' is ['object']; known presets are"),
        ({}, {"rnk": [4]}, "m.yaml: unknown key 'sweep.rnk'; did you mean 'sweep.rank'?"),
        ({}, {"rank": [4, 0]}, "m.yaml: sweep.rank is 0; Input should be greater"),
        ({}, {"rank": []}, "m.yaml: 'sweep.rank' is []; give at least one value"),
        ({}, {"rank": [4, 8, 4]}, "m.yaml: 'sweep' comes to the same recipe twice, again at {'rank': 4}"),
        ({}, {"rank": list(range(1, 200)), "seed": list(range(99))}, "m.yaml: 'sweep' has 19701 points; at most 1000"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_by_its_path(
    recipe: dict[str, object], sweep: dict[str, list[object]], said: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        resolve_sweep(manifest(recipe, sweep), toy=True, where="m.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_is_every_combination_in_order() -> None:
    points = resolve_sweep(manifest({"seed": 5}, {"rank": [4, 16], "min_snr_gamma": [None, 5.0]}), True, "m.yaml")
    assert [(p.rank, p.min_snr_gamma, p.seed) for p in points] == [
        (4, None, 5),
        (4, 5.0, 5),
        (16, None, 5),
        (16, 5.0, 5),
    ]


def test_a_sweep_over_presets_takes_each_presets_keys() -> None:
    points = resolve_sweep(manifest({}, {"preset": ["fast", "object"]}), True, "m.yaml")
    assert points == [resolve_recipe({"preset": name}, True) for name in ("fast", "object")]


@given(
    st.dictionaries(
        st.sampled_from(sorted(Recipe.model_fields)), st.integers(-2, 300) | st.none() | st.text(max_size=5)
    )
)
def test_any_override_is_a_recipe_or_a_manifest_error(overrides: dict[str, object]) -> None:
    outcome: Recipe | str
    try:
        outcome = resolve_recipe(overrides, toy=True)
    except ManifestError as problem:
        outcome = str(problem)
    assert isinstance(outcome, Recipe) or "\n" not in outcome
