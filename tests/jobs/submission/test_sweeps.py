"""Sweeps from a manifest's file to a plan: what is planned, what is shown, and which early stops cannot be meant."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorafleet.bases import find_base
from lorafleet.cli import new_app, run
from lorafleet.config import EarlyStop
from lorafleet.errors import ManifestError
from lorafleet.toy.subjects import write_subjects
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.intake.conflicts import early_stop_conflicts
from lorafleet_jobs.intake.prepare import examine, prepare

EARLY = {"first": 50}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    write_subjects(folder, ["mug", "dog"], pictures=4)
    return folder


def written(photos: Path, noun: str = "mug", **more: object) -> Path:
    text: dict[str, Any] = {
        "name": "m", "subjects": [{"images": "mug-01", "class": noun}, {"images": "dog-02", "class": "dog"}],
        "sweep": {"learning_rate": [1e-3, 1e-4]}, "recipe": {"optimizer": "adamw", "steps": 200}, **more,
    }  # fmt: skip
    (photos / "m.yaml").write_text(yaml.safe_dump(text))
    return photos / "m.yaml"


def test_the_same_draws_are_the_same_jobs(photos: Path) -> None:
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-3]}, "pivotal.tokens": {"int": [1, 4]}}
    one, again, more = (
        prepare(written(photos, sweep={"random": {"count": count, "seed": 3, "space": space}})).plan
        for count in (4, 4, 6)
    )
    assert one == again
    assert len(one.jobs) == 2 * 4
    assert {job.id for job in one.jobs} < {job.id for job in more.jobs}
    listed = [{"learning_rate": job.recipe.learning_rate, "pivotal.tokens": job.recipe.pivotal.tokens}  # type: ignore[union-attr]
              for job in one.jobs[:4]]  # fmt: skip
    assert [job.id for job in prepare(written(photos, sweep={"points": listed})).plan.jobs] == [j.id for j in one.jobs]


def test_an_early_stop_changes_the_submission_and_no_job(photos: Path) -> None:
    without, with_it = prepare(written(photos)).plan, prepare(written(photos, early_stop=EARLY)).plan
    assert [job.id for job in with_it.jobs] == [job.id for job in without.jobs]
    assert with_it.submission != without.submission
    assert all(job.early_stop is not None and job.early_stop.first == 50 for job in with_it.jobs)


def test_plan_shows_every_point(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(photos, sweep={"points": [{"rank": 4}, {"pivotal.tokens": 3}, {"rank": 4}]}, early_stop=EARLY)
    app = new_app()
    register(app)
    assert run(app, ["plan", str(path), "--json"]) == 0
    recipes = json.loads(capsys.readouterr().out)["recipes"]
    assert [recipe["point"] for recipe in recipes] == [{"rank": 4}, {"pivotal": {"tokens": 3}}]
    assert [recipe["values"]["pivotal"]["tokens"] for recipe in recipes][1] == 3
    assert recipes[1]["origins"]["pivotal.tokens"] == "sweep"
    assert [len(recipe["jobs"]) for recipe in recipes] == [2, 2]
    assert run(app, ["plan", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 sweep points (3 written or drawn, some alike), every subject at each" in said
    assert "early stop by score at step 50, 150: of each subject the best third goes on; time is estimated" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"early_stop": {"first": 200}}, "early_stop.first is 200, but no job takes more than 200 steps; set it below"),
        ({"early_stop": {"first": 9, "metric": "dino", "weights": "."}}, ": early_stop.weights: "),
        ({"early_stop": EARLY, "noun": "vase"}, "early_stop.metric is score, and the toy world's judge knows no vase"),
        ({"early_stop": {"first": 9, "metric": "loss"}, "sweep": {"min_snr_gamma": [None, 5.0]}},
         "early_stop.metric is loss, and the sweep varies min_snr_gamma, with which losses do not compare"),
        ({"early_stop": {"first": 9, "metric": "loss"}, "sweep": {"seed": [0, 1]}}, "sweep varies seed, with which"),
        ({"sweep": {"optimizer": ["adamw", "prodigy"]}, "recipe": {"learning_rate": 1e-4}},
         "sweep point {optimizer: prodigy}: recipe.learning_rate is 0.0001, but Prodigy finds"),
    ],
)  # fmt: skip
def test_an_early_stop_that_cannot_be_meant(photos: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        examine(written(photos, **more))
    assert said in str(caught.value)


def test_a_metric_belongs_to_its_bases(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    dino = {"first": 9, "metric": "dino", "weights": str(tmp_path)}
    with pytest.raises(ManifestError, match="metric is dino, which says nothing about toy pictures; use score or loss"):
        examine(written(photos, early_stop=dino))
    elsewhere = replace(find_base("toy-sdxl"), path=tmp_path)
    [said] = early_stop_conflicts(EarlyStop(first=9), [], [], elsewhere)
    assert "is score, the toy world's; a real base takes dino, clip-i, clip-t with" in said
    absent = examine(written(photos, early_stop=EARLY), base="someone/never-fetched")
    assert absent.base is None, "what cannot be known yet is not refused"


def test_an_encoders_folder_is_relative_to_the_manifest(photos: Path) -> None:
    (photos / "clip").mkdir(exist_ok=True)
    (photos / "clip" / "config.json").write_text("{}")
    early = {"first": 9, "metric": "clip-t", "weights": "clip"}
    checked = examine(written(photos, early_stop=early), base="someone/never-fetched")
    assert checked.manifest.early_stop is not None
    assert checked.manifest.early_stop.weights == str((photos / "clip").resolve())
