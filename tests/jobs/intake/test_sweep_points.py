"""The points of a sweep: which recipes they come to, and what is said about a point that is none."""

import pytest
from sweep_points import manifest, resolve_points, resolve_sweep

from lorafleet.errors import ManifestError
from lorafleet_jobs.intake.recipes import resolve_recipe


@pytest.mark.parametrize(
    ("recipe", "sweep", "said"),
    [
        ({"stepz": 3}, {}, "unknown key 'recipe.stepz'; did you mean 'recipe.steps'?"),
        ({"xyzzy": 3}, {}, "unknown key 'recipe.xyzzy'; known keys are alpha, batch_size"),
        ({"pivotal": {"tokns": 3}}, {}, "unknown key 'recipe.pivotal.tokns'; did you mean 'tokens'?"),
        ({"rank": 0}, {}, "recipe.rank is 0; it must be at least 1"),
        ({"steps": "many"}, {}, "allowed are 1 to 100000, or steps per image as in '120/image'"),
        ({"preset": "objekt"}, {}, "is 'objekt'; it must be one of character, dora, face, fast, object, pivotal"),
        ({"preset": "../recipes/object"}, {}, "recipe.preset is '../recipes/object'; it must be one of"),
        ({"preset": ["object"]}, {}, "recipe.preset is ['object']; it must be one of"),
        ({}, {"rnk": [4]}, "unknown key 'sweep.rnk'; did you mean 'sweep.rank'?"),
        ({}, {"rank": [4, 0]}, "sweep point {rank: 0}: sweep.rank is 0; it must be at least 1"),
        ({}, {"rank": []}, "sweep.rank is []; give at least one value"),
        ({}, {"optimizer": ["adamw", "prodigy"], "token_learning_rate": [0.001]},
         "sweep point {optimizer: prodigy, token_learning_rate: 0.001}: recipe: Prodigy estimates one rate"),
        ({"dropout": 0.1, "dora": True}, {}, "recipe: dropout and dora together"),
        ({"dropout": 2}, {"rank": [4, 8]}, "recipe.dropout is 2; it must be below 1"),
        ({}, {"pivotal": [{"tokens": 99}]},
         "sweep.pivotal.tokens is 99; it must be at most 8"),
        ({}, {"pivotal.tokens": [2, 99]},
         "sweep point {pivotal.tokens: 99}: sweep.pivotal.tokens is 99; it must be at most 8"),
        ({}, {"pivotal.tokns": [2]}, "unknown key 'sweep.pivotal.tokns'; did you mean 'sweep.pivotal.tokens'?"),
        ({}, {"pivotal.xyzzy": [2]}, "unknown key 'sweep.pivotal.xyzzy'; keys of pivotal are abstractions,"),
        ({}, {"pivotal.": [2]}, "unknown key 'sweep.pivotal.'; keys of pivotal are"),
        ({}, {"pivotl.tokens": [2]}, "unknown key 'sweep.pivotl'; did you mean 'sweep.pivotal'?"),
        ({}, {"rank.x": [2]}, "unknown key 'sweep.rank.x'; rank has no inner keys; write sweep.rank"),
        ({}, {"pivotal": [None], "pivotal.tokens": [2]}, "sets both pivotal and pivotal.tokens at one point; write"),
        ({}, {"prior.weight": [0.5]}, "sweep point {prior.weight: 0.5}: 'recipe.prior.mode' is missing; add it"),
        ({}, {"points": [{"rank": 4}, {"rank": 4, "seed": -1}]},
         "sweep point {rank: 4, seed: -1}: sweep.seed is -1; it must be at least 0"),
        ({}, {"random": {"count": 2, "space": {"rank": {"uniform": [1.5, 1.7]}}}}, "}: sweep.rank is 1.6"),
        ({}, {"random": {"count": 1001, "space": {"rank": {"choice": [1]}}}}, "sweep has 1001 points; at most 1000"),
        ({}, {"rank": list(range(1, 200)), "seed": list(range(99))}, "sweep has 19701 points; at most 1000"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_by_its_path(recipe: dict[str, object], sweep: dict[str, object], said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        resolve_sweep(manifest(recipe, sweep))
    assert said in str(caught.value)
    assert str(caught.value).count("\n") == ("random" in sweep and "sweep.rank" in said), "both points"


def test_a_sweep_is_every_combination_in_order() -> None:
    points = resolve_sweep(manifest({"seed": 5}, {"rank": [4, 16], "min_snr_gamma": [None, 5.0]}))
    assert [(p.rank, p.min_snr_gamma, p.seed) for p in points] == [
        (4, None, 5),
        (4, 5.0, 5),
        (16, None, 5),
        (16, 5.0, 5),
    ]


def test_an_inner_key_leaves_the_others_as_the_recipe_has_them() -> None:
    written: dict[str, object] = {"pivotal": {"fraction": 0.25}, "sigma_sampler": "lognormal"}
    sweep: dict[str, object] = {"pivotal.tokens": [1, 3], "sigma_sampler.P_mean": [-0.4]}
    one, three = resolve_sweep(manifest(written, sweep))
    for recipe, tokens in ((one, 1), (three, 3)):
        assert recipe.pivotal is not None
        assert recipe.sigma_sampler is not None
        assert (recipe.pivotal.tokens, recipe.pivotal.fraction) == (tokens, 0.25)
        assert (recipe.sigma_sampler.name, recipe.sigma_sampler.P_mean) == ("lognormal", -0.4)
    [off] = resolve_sweep(manifest({"pivotal": None}, {"pivotal.tokens": [5]}))
    assert off.pivotal is not None
    assert off.pivotal.tokens == 5


def test_points_that_come_to_the_same_recipe_are_one() -> None:
    point = {"rank": 4, "learning_rate": "1e-4"}
    listed = {"points": [{"rank": 8}, point, {"learning_rate": 0.0001, "rank": 4}, {"rank": 8}, {}]}
    found = resolve_points(manifest({"rank": 8}, listed))
    assert [one.point for one in found] == [{"rank": 8}, point]
    assert [one.recipe.rank for one in resolve_points(manifest({}, {"rank": [4, 8, 4]}))] == [4, 8]
    drawn = {"random": {"count": 40, "space": {"rank": {"choice": [4, 8, 16]}}}}
    assert {one.recipe.rank for one in resolve_points(manifest({}, drawn))} == {4, 8, 16}
    assert len(resolve_points(manifest({}, drawn))) == 3


def test_a_sweep_over_presets_takes_each_presets_keys() -> None:
    points = resolve_sweep(manifest({}, {"preset": ["fast", "object"]}))
    assert points == [resolve_recipe({"preset": name}, True) for name in ("fast", "object")]


def test_a_sweep_may_complete_what_the_recipe_alone_would_not_be() -> None:
    points = resolve_sweep(manifest({"token_learning_rate": 0.01}, {"optimizer": ["adamw", "lion"]}))
    assert [point.optimizer for point in points] == ["adamw", "lion"]
