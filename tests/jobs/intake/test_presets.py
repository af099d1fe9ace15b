"""Presets and overrides: what wins over what, and what is said about a key that does not exist."""

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweep_points import manifest, resolve_sweep

from lorafleet.bases import Base, find_base
from lorafleet.config import Recipe, SubjectSpec, Validation
from lorafleet.config.parts import OptimizerOptions
from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.base_size import measure_base
from lorafleet_jobs.intake.conflicts import recipe_conflicts
from lorafleet_jobs.intake.explain import ResolvedRecipe
from lorafleet_jobs.intake.other_trainers import ABSENT, HINTS, RENAMED, advice
from lorafleet_jobs.intake.presets import FOLDER, preset_names
from lorafleet_jobs.intake.recipes import resolve_recipe


def test_the_presets_there_are() -> None:
    assert preset_names() == ["character", "dora", "face", "fast", "object", "pivotal", "style"]


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("toy", [True, False])
def test_every_preset_is_a_recipe(name: str, toy: bool) -> None:
    recipe = resolve_recipe({"preset": name}, toy)
    assert recipe.preset == name
    assert recipe.precision == ("fp32" if toy else "bf16")
    assert recipe.gradient_checkpointing == (False if toy else "auto")
    assert recipe.pivotal is not None
    assert 20 <= recipe.step_count(5) <= 1500


def test_checkpointing_is_what_is_written_or_left_to_the_plan() -> None:
    for value in (True, False, "auto"):
        assert resolve_recipe({"gradient_checkpointing": value}, False).gradient_checkpointing == value
    with pytest.raises(ManifestError, match="is 'always'; it must be true or false or 'auto'"):
        resolve_recipe({"gradient_checkpointing": "always"}, False)


@pytest.mark.parametrize(
    ("name", "few", "some", "many"),  # 4, 12 and 40 images
    [
        ("object", 500, 600, 1500), ("face", 500, 900, 1500), ("style", 500, 1440, 1500),
        ("character", 720, 1500, 1500), ("pivotal", 500, 900, 1500), ("dora", 500, 900, 1500), ("fast", 100, 100, 100),
    ],
)  # fmt: skip
def test_steps_go_with_images_on_real_bases(name: str, few: int, some: int, many: int) -> None:
    recipe = resolve_recipe({"preset": name}, False)
    assert [recipe.step_count(images) for images in (4, 12, 40)] == [few, some, many]


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("base", [find_base("toy-sdxl"), find_base("toy-playground")], ids=lambda base: base.name)
def test_no_preset_is_refused(name: str, base: Base) -> None:
    for toy in (True, False):
        assert list(recipe_conflicts(resolve_recipe({"preset": name}, toy), base, measure_base(base))) == []


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_what_it_is_for(name: str) -> None:
    assert (FOLDER / f"{name}.yaml").read_text().startswith(f"# {name}: ")


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
    ("key", "advised"),
    [
        ("snr_gamma", "here it is 'min_snr_gamma'"),
        ("network_dim", "here it is 'rank'"),
        ("train_text_encoder_ti", "here it is 'pivotal' (pivotal: {tokens: 2, fraction: 0.5})"),
        ("--num-class-images", "here it is 'prior.count'"),
        ("shuffle_caption", "here it is 'caption.shuffle'"),
        ("clip_skip", "SDXL-shaped bases are conditioned on the penultimate layer, there is nothing to skip"),
        ("use_8bit_adam", "set optimizer: adamw8bit"),
    ],
)
def test_keys_of_other_trainers(key: str, advised: str) -> None:
    for section in ("recipe", "sweep"):
        wrong = manifest({key: 1}) if section == "recipe" else manifest({}, {key: [1]})
        with pytest.raises(ManifestError) as caught:
            resolve_sweep(wrong)
        assert str(caught.value).startswith(f"unknown key '{section}.{key}'; {advised}")


def test_what_other_trainers_keys_are_called_exists_here() -> None:
    other = {"subjects": SubjectSpec, "validation": Validation}
    for old, new in RENAMED.items():
        assert old not in Recipe.model_fields or new.split(".")[0] != old
        first, *rest = new.split(".")
        if first in other:
            names = {field.alias or name for name, field in other[first].model_fields.items()}
            assert set(rest) <= names, old
        else:
            assert first in Recipe.model_fields, old
            resolve = Recipe.model_json_schema(by_alias=True)["$defs"]
            inner = {name for definition in resolve.values() for name in definition.get("properties", {})}
            assert set(rest) <= inner, old
    assert set(HINTS) <= set(RENAMED)
    assert not set(RENAMED) & set(ABSENT)
    assert not set(Recipe.model_fields) & (set(RENAMED) | set(ABSENT))
    assert advice("stepz") is None


@pytest.mark.parametrize("toy", [True, False])
def test_what_a_preset_says_of_its_optimizer_is_not_said_of_another(toy: bool) -> None:
    """AdamW has no d0, and Prodigy's rates are no rates of AdamW's."""
    written: dict[str, Any] = {"preset": "fast", "optimizer": "adamw"}
    recipe = resolve_recipe(written, toy)
    assert recipe.optimizer_options == OptimizerOptions()
    assert (recipe.rank, recipe.learning_rate) == (4, None)
    own = resolve_recipe({"preset": "fast", "optimizer": "prodigy", "optimizer_options": {"d_coef": 2.0}}, toy)
    assert own.optimizer_options == OptimizerOptions(d0=2e-3 if toy else 3e-4, d_coef=2.0)
    origins = ResolvedRecipe(recipe, written, {}, find_base("toy-sdxl")).origins()
    assert (origins["optimizer"], origins["rank"]) == ("manifest", "preset")
    assert "optimizer_options.d0" not in origins
    swept = resolve_sweep(manifest({"preset": "fast"}, {"optimizer": ["adamw", "prodigy"]}), toy)
    assert [one.optimizer_options.d0 is None for one in swept] == [True, False]


def test_who_set_what() -> None:
    base = find_base("toy-sdxl")
    written: dict[str, Any] = {"optimizer": "adamw", "pivotal": {"fraction": 0.25}, "caption": {"dropout": 0.1}}
    point = {"rank": 4, "sigma_sampler": "lognormal"}
    [recipe] = resolve_sweep(manifest(written, {key: [value] for key, value in point.items()}))
    resolved = ResolvedRecipe(recipe, written, point, base)
    origins = resolved.origins()
    assert {key: origins[key] for key in ("rank", "optimizer", "steps", "dora", "preset")} == {
        "rank": "sweep", "optimizer": "manifest", "steps": "preset", "dora": "default", "preset": "default",
    }  # fmt: skip
    assert (origins["pivotal.fraction"], origins["pivotal.tokens"], origins["pivotal.init"]) == (
        "manifest", "preset", "default",
    )  # fmt: skip
    lines = {line.key: (line.yaml, line.origin) for line in resolved.lines()}
    assert lines["rank"] == ("rank: 4", "sweep")
    assert lines["pivotal"] == ("pivotal: {tokens: 4, fraction: 0.25}", "manifest, preset")
    assert lines["caption"] == ("caption: {dropout: 0.1}", "manifest")
    assert lines["learning_rate"] == ("learning_rate: 0.0001", "default of adamw")
    assert lines["token_learning_rate"] == ("token_learning_rate: 0.0003", "default, three times learning_rate")
    assert lines["resolution"] == ("resolution: 32", "default of toy-sdxl")
    assert lines["alpha"] == ("alpha: 4", "default, the rank")
    assert "dora" not in lines


def test_a_plan_shows_the_levels_that_depend_on_the_size() -> None:
    base = find_base("toy-playground")

    def shown(**written: object) -> tuple[str, str] | None:
        lines = ResolvedRecipe(resolve_recipe(written, toy=True), written, {}, base).lines()
        return next(((line.yaml, line.origin) for line in lines if line.key == "sigma_sampler"), None)

    levels = "sigma_sampler: {name: lognormal, P_mean: %s, P_std: %s}"
    assert shown() == (levels % (-1.2, 1.2), "default for latents of side 8")
    assert shown(resolution=64) == (levels % (-0.933, 1.2), "default for latents of side 16")
    assert shown(sigma_sampler={"name": "lognormal", "P_std": 1.0}) == (
        levels % (-1.2, 1.0), "manifest, default for latents of side 8",
    )  # fmt: skip
    named = {"name": "lognormal", "P_mean": -0.7}
    assert shown(sigma_sampler=named) == ("sigma_sampler: {name: lognormal, P_mean: -0.7}", "manifest")


@pytest.mark.parametrize("name", preset_names())
def test_the_printed_lines_are_a_recipe_again(name: str) -> None:
    recipe = resolve_recipe({"preset": name}, toy=True)
    lines = ResolvedRecipe(recipe, {"preset": name}, {}, find_base("toy-sdxl")).lines()
    again = yaml.safe_load("\n".join(line.yaml for line in lines))
    filled = {"alpha": float(recipe.rank), "learning_rate": 1.0, "resolution": 32}
    assert resolve_recipe(again, toy=True) == recipe.with_changes(**filled)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
    assert isinstance(outcome, Recipe) or all(line.startswith("recipe: ") for line in outcome.split("\n"))
