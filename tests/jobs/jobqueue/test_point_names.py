"""Names of a sweep's points: short, each once, and the same however the sweep was written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.config import Recipe, Validation
from lorafleet_jobs.intake.recipes import resolve_recipe
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.point_names import labels, point_names
from lorafleet_jobs.jobspec import JobSpec


def row(number: int, recipe: Recipe, adapter: str = "rex", steps: int = 200) -> JobRow:
    spec = JobSpec(
        id=f"{number:x}{'0' * 15}"[:16], submission="s", subject=adapter, adapter=adapter, base="toy-sdxl", folder="/p",
        images=(), class_noun="dog", instance_prompt="TOK", recipe=recipe, steps=steps, validation=Validation(),
        dataset_fingerprint="f",
    )  # fmt: skip
    return JobRow("s", spec.id, number, spec, steps=steps)


def names(*recipes: dict[str, Any]) -> list[str]:
    return list(point_names([row(n, Recipe.model_validate(one)) for n, one in enumerate(recipes)]).values())


ADAMW = {"optimizer": "adamw"}


@pytest.mark.parametrize(
    ("recipes", "said"),
    [
        ([{"rank": 4}], [""]),
        ([{"rank": 4}, {"rank": 16}], ["rank 4", "rank 16"]),
        (
            [{"rank": 4, **ADAMW, "learning_rate": 1e-4}, {"rank": 16, **ADAMW, "learning_rate": 2.5e-5}],
            ["rank 4 lr 1e-4", "rank 16 lr 2.5e-5"],
        ),
        ([{"min_snr_gamma": 5.0}, {}], ["min_snr_gamma 5", "min_snr_gamma null"]),
        ([{"dora": True}, {"dora": False}], ["dora on", "dora off"]),
        ([{"pivotal": {"tokens": 2}}, {"pivotal": {"tokens": 4}}], ["pivotal.tokens 2", "pivotal.tokens 4"]),
        ([{"rank": 4}, {"rank": 4}], ["000000", "100000"]),  # nothing tells them apart but their ids
    ],
)
def test_what_differs_is_the_name(recipes: list[dict[str, Any]], said: list[str]) -> None:
    assert names(*recipes) == said


def test_a_sweep_over_presets_is_told_by_the_preset_not_by_all_that_it_sets() -> None:
    recipes = [resolve_recipe({"preset": name, "rank": rank}, True) for name in ("fast", "face") for rank in (4, 8)]
    found = list(point_names([row(n, one) for n, one in enumerate(recipes)]).values())
    assert found == ["preset fast rank 4", "preset fast rank 8", "preset face rank 4", "preset face rank 8"]


def test_subjects_of_a_mixed_fleet_are_not_points() -> None:
    jobs = [row(1, Recipe(rank=4)), row(2, Recipe(rank=8), "mug"), row(3, Recipe(rank=8), "mug", steps=100)]
    assert list(labels(jobs).values()) == ["rex", "mug steps 200", "mug steps 100"]


@given(st.lists(st.tuples(st.integers(1, 64), st.sampled_from([None, 1e-4, 1e-3]), st.booleans()), max_size=12))
def test_no_two_jobs_have_one_name(points: list[tuple[int, float | None, bool]]) -> None:
    jobs = [
        row(n, Recipe(rank=rank, optimizer="adamw", learning_rate=rate, dora=dora))
        for n, (rank, rate, dora) in enumerate(points)
    ]
    found = labels(jobs).values()
    assert len(set(found)) == len(jobs)
