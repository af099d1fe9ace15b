"""What a reviewer finds on the MLflow page of a job: few parameters, the recipe, named pictures, a table of them."""

import json

import numpy as np
import pytest
import yaml
from own_lane import jobs_of, lane
from PIL import Image

from lorafleet.config import Recipe
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import store_url
from lorafleet_jobs.submission.job_info import parameters, recipe_yaml
from lorafleet_jobs.train.data.contact_strip import COLUMNS, GAP, SIDE


@pytest.fixture(scope="module")
def trained(home, tracking, tmp_path_factory):
    """A job with learned words, and its run."""
    from lorafleet_jobs.intake.prepare import prepare
    from lorafleet_jobs.submission.submit import record

    folder = tmp_path_factory.mktemp("photos")
    (folder / "cup").mkdir()
    for number in range(5):
        Image.new("RGB", (48, 40), (50 * number, 90, 200)).save(folder / "cup" / f"{number}.png")
    manifest = {
        "name": "pages", "base": "toy-playground", "recipe": {"rank": 2, "steps": 3, "alpha": None, "batch_size": 2},
        "validation": {"steps": 1, "every": 2, "seed": 7, "prompts": ["a photo of TOK {class}", "{name} in the snow"]},
        "subjects": [{"name": "cup", "images": "cup", "class": "mug"}],
    }  # fmt: skip
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    prepared = prepare(folder / "manifest.yaml")
    record(prepared, home)
    lane(home, tracking, JobQueue(store_url(home), prepared.plan.submission))
    job = jobs_of(home, prepared.plan.submission)["cup"]
    return job, tracking.client.get_run(job.run_id)


def test_its_parameters_are_what_somebody_chose_resolved(trained):
    job, run = trained
    assert run.info.run_name == "cup"
    assert run.data.params == {
        "base": "toy-playground", "preset": "object", "steps": "3", "rank": "2", "alpha": "2", "batch_size": "2",
        "pivotal.tokens": "4", "pivotal.fraction": "0.5", "lr_scheduler": "cosine",
    }  # fmt: skip
    assert parameters(job.spec.with_changes(settings=())) == {
        "base": "toy-playground", "preset": "object", "steps": "3"
    }, "of rows from before settings were kept"  # fmt: skip


def test_its_recipe_is_an_artifact_that_a_manifest_takes(trained, tracking):
    job, run = trained
    with open(tracking.client.download_artifacts(run.info.run_id, "recipe.yaml")) as file:
        written = yaml.safe_load(file)
    assert written.keys() == Recipe.model_fields.keys()
    assert (written["resolution"], written["steps"], written["rank"]) == (32, 3, 2)
    again = Recipe.model_validate(written)
    assert yaml.safe_load(recipe_yaml(job.spec.with_changes(recipe=again))) == written


def test_its_pictures_say_the_prompt_and_what_made_them(trained, tracking):
    _, run = trained
    pictures = {tuple(one.path.split("/")[1].split("+")[0:3:2]) for one in images(tracking, run)}
    shown = [("base", "0"), ("words only", "3"), ("adapter", "3"), *(("by step", step) for step in "023")]
    assert pictures == {
        ("1 TOK~training photos", "0"),
        *((f"{name}~{shows}", step) for name in ("1 TOK", "2 TOK in the snow") for shows, step in shown),
    }
    [strip] = [one for one in images(tracking, run) if "training photos" in one.path]
    with Image.open(tracking.client.download_artifacts(run.info.run_id, strip.path)) as photos:
        assert photos.size == (COLUMNS * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) - GAP)
        pixels = np.asarray(photos)
    assert pixels[SIDE // 2, SIDE // 2].tolist() == [0, 90, 200]
    assert pixels[-1, SIDE // 2].tolist() == [200, 90, 200], "the fifth, in the second row"


def test_its_table_has_a_row_for_each_picture_of_a_prompt(trained, tracking):
    _, run = trained
    with open(tracking.client.download_artifacts(run.info.run_id, "validation.json")) as file:
        rows = [[row[0], *row[2:]] for row in json.load(file)["data"]]
    snow = "cup in the snow"  # names no subject, so that the base is asked the same
    assert rows == [
        ["1 TOK", "a photo of TOK mug", "adapter", 3, 7],
        ["2 TOK in the snow", snow, "adapter", 3, 7],
        ["1 TOK (words only)", "a photo of TOK mug", "words only", 3, 7],
        ["2 TOK in the snow (words only)", snow, "words only", 3, 7],
        ["1 TOK (base)", "a photo of a mug", "base", 0, 7],
        ["2 TOK in the snow (base)", snow, "base", 0, 7],
        ["1 TOK (step 2)", "a photo of TOK mug", "by step", 2, 7],
        ["2 TOK in the snow (step 2)", snow, "by step", 2, 7],
    ]


def images(tracking, run):
    return [one for one in tracking.client.list_artifacts(run.info.run_id, "images") if one.path.endswith(".png")]
