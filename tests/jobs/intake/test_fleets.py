"""Mixed fleets: who wins over whom, that mistakes are told where they are written, and that ids depend on results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lorafleet.config import Manifest, Recipe
from lorafleet.errors import ManifestError
from lorafleet_jobs.dataset.subjects import find_subjects
from lorafleet_jobs.intake.layers import layers_of
from lorafleet_jobs.intake.prepare import Prepared, examine, prepare
from lorafleet_jobs.intake.recipes import Resolved, resolve

HEAD = "name: pets\nbase: toy-sdxl\n"
SUBJECTS = """\
subjects:
  - {images: rex, class: dog}
  - {images: ada, class: Person, recipe: {rank: 32}}
  - {images: ink, class: style, recipe: style}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("rex", "ada", "ink"):
        (tmp_path / name).mkdir()
        for n in range(4):
            Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / name / f"{n}.png")
    return tmp_path


def written(here: Path, text: str) -> Path:
    (here / "m.yaml").write_text(HEAD + text)
    return here / "m.yaml"


def planned(here: Path, text: str) -> Prepared:
    return prepare(written(here, text))


def recipes(prepared: Prepared) -> dict[str, Recipe]:
    return {job.subject: job.recipe for job in prepared.plan.jobs}


def refused(here: Path, text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        examine(written(here, text))
    return [line.removeprefix(f"{here}/") for line in str(caught.value).split("\n")]


def resolved(**more: Any) -> Resolved:
    subject = {"images": "a", "class": "dog", **more.pop("subject", {})}
    manifest = Manifest.model_validate({"name": "m", "subjects": [subject], **more})
    [found] = find_subjects(manifest, Path("/"))
    return resolve(layers_of(manifest, found), manifest.sweep, True)


@pytest.mark.parametrize(
    ("layers", "rank"),
    [
        ({}, 4),  # the preset's
        ({"recipe": {"rank": 5}}, 5),
        ({"recipe": {"rank": 5}, "defaults": {"dog": {"rank": 6}, "cat": {"rank": 60}}}, 6),
        ({"recipe": {"rank": 5}, "defaults": {"dog": {"rank": 6}}, "subject": {"recipe": {"rank": 7}}}, 7),
        ({"defaults": {"dog": {"rank": 6}}, "subject": {"recipe": {"rank": 7}}, "sweep": {"rank": [8]}}, 8),
    ],
)
def test_each_layer_wins_over_those_below(layers: dict[str, Any], rank: int) -> None:
    layers = {**layers, "recipe": {"preset": "fast", **layers.get("recipe", {})}}
    [one] = resolved(**layers).recipes
    assert (one.preset, one.rank) == ("fast", rank)


def test_a_mapping_over_a_mapping_leaves_alone_what_it_does_not_name() -> None:
    [one] = resolved(
        recipe={"pivotal": {"tokens": 3, "fraction": 0.25}, "caption": {"prefix": "TOK, "}},
        defaults={" Dog ": {"pivotal": {"tokens": 5}}},
        subject={"recipe": {"caption": {"shuffle": True}}},
    ).recipes
    assert one.pivotal is not None
    assert (one.pivotal.tokens, one.pivotal.fraction) == (5, 0.25)
    assert (one.caption.prefix, one.caption.shuffle) == ("TOK, ", True)


def test_a_preset_stands_below_every_key_wherever_it_is_named() -> None:
    [one] = resolved(recipe={"preset": "face", "rank": 9}, defaults={"dog": "fast"}).recipes
    assert one == resolved(recipe={"preset": "fast", "rank": 9}).recipes[0]


def test_a_face_a_mug_and_a_style_in_one_manifest(here: Path) -> None:
    prepared = planned(here, "recipe: {preset: object, seed: 3}\ndefaults: {person: face}\n" + SUBJECTS)
    found = recipes(prepared)
    assert {name: (one.preset, one.seed) for name, one in found.items()} == {
        "rex": ("object", 3), "ada": ("face", 3), "ink": ("style", 3),
    }  # fmt: skip
    assert found["ada"].rank == 32
    assert len(prepared.recipes) == 3
    origins = [one.origins() for one in prepared.recipes]
    assert [one["preset"] for one in origins] == ["manifest", "defaults.person", "subject"]
    assert [one["seed"] for one in origins] == ["manifest"] * 3
    assert origins[1]["rank"] == "subject"
    lines = {line.key: (line.yaml, line.origin) for line in prepared.recipes[1].lines()}
    assert lines["rank"] == ("rank: 32", "subject")
    assert lines["preset"] == ("preset: face", "defaults.person")


def test_ids_depend_on_what_a_recipe_comes_to_not_on_where_it_is_written(here: Path) -> None:
    alone = SUBJECTS.replace(", recipe: {rank: 32}", "").replace(", recipe: style", "")
    plain = planned(here, "recipe: {rank: 6}\n" + alone).plan
    by_class = planned(here, "defaults: {dog: {rank: 6}, person: {rank: 6}, style: {rank: 6}}\n" + alone).plan
    assert [job.id for job in plain.jobs] == [job.id for job in by_class.jobs]
    mixed = planned(here, "recipe: {rank: 6}\n" + SUBJECTS).plan
    assert [a.id == b.id for a, b in zip(plain.jobs, mixed.jobs, strict=True)] == [True, False, False]
    assert mixed.submission != plain.submission


def test_a_sweep_is_over_every_subjects_own_recipe(here: Path) -> None:
    prepared = planned(here, SUBJECTS + "sweep: {seed: [1, 2]}\n")
    assert [(job.subject, job.recipe.seed, job.recipe.preset) for job in prepared.plan.jobs] == [
        ("rex", 1, "object"), ("rex", 2, "object"), ("ada", 1, "object"), ("ada", 2, "object"),
        ("ink", 1, "style"), ("ink", 2, "style"),
    ]  # fmt: skip
    assert len(prepared.recipes) == 6


def test_each_subject_is_judged_by_its_own_recipe(here: Path) -> None:
    """A recipe that learns no word needs none in its captions; the others do."""
    for name in ("rex", "ada"):
        for n in range(4):
            (here / name / f"{n}.txt").write_text("in the snow")
    text = "subjects: [{images: rex, class: dog}, {images: ada, class: dog, recipe: {pivotal: null}}]\n"
    rex, ada = examine(written(here, text)).reports
    assert [finding.id for finding in rex.errors] == ["D011"]
    assert ada.errors == ()


def test_a_class_folder_stops_only_those_who_name_it(here: Path) -> None:
    prior = "recipe: {prior: {mode: images, images: nowhere}}"
    rex, ada = examine(
        written(here, f"subjects: [{{images: rex, class: dog}}, {{images: ada, class: dog, {prior}}}]\n")
    ).reports
    assert (len(rex.errors), [finding.id for finding in ada.errors]) == (0, ["D026"])


def test_every_mistake_of_the_whole_manifest_comes_at_once(here: Path) -> None:
    text = """\
recipe:
  rank: no
  stepz: 3
defaults:
  dog: {lr_cycles: 3}
  cat: objekt
subjects:
  - {images: rexx, class: dog}
  - {images: ada, class: cat, recipe: {pivotal: {tokens: 99}, optimizer: lion, optimizer_options: {d_coef: 1}}}
  - {imags: ink, class: style}
sweep: {seed: [1, -1]}
resources: {lanes: 0}
"""
    presets = "character, dora, face, fast, object, pivotal, style"
    assert refused(here, text) == [
        "m.yaml:4:9: recipe.rank is no, which YAML reads as false; it must be a number",
        "m.yaml:5:3: unknown key 'recipe.stepz'; did you mean 'recipe.steps'?",
        f"m.yaml:8:8: defaults.cat.preset is 'objekt'; it must be one of {presets}; did you mean object?",
        "m.yaml:10:14: subjects[0].images: no folder 'rexx' (" + str(here) + "/rexx); did you mean 'rex'?",
        "m.yaml:11:58: subjects[1].recipe.pivotal.tokens is 99; it must be at most 8",
        "m.yaml:11:108: recipe: lion has no option d_coef (weight_decay, betas are); leave it out, or use prodigy",
        "m.yaml:12:6: unknown key 'subjects[2].imags'; did you mean 'images'?",
        "m.yaml:13:19: sweep point {seed: -1}: sweep.seed is -1; it must be at least 0",
        "m.yaml:14:20: resources.lanes is 0; it must be at least 1",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: {dog: {lr_cycles: 3}}\n" + SUBJECTS,
         "m.yaml:3:29: defaults.dog.lr_cycles is 3, but cosine has none; leave it out, or use"),
        ("recipe: {dropout: 0.1}\ndefaults: {dog: {dora: true}}\n" + SUBJECTS,
         "m.yaml:4:24: recipe: dropout and dora together would drop direction but not magnitude; use one of them"),
        (SUBJECTS.replace("class: dog", "class: dog, instance_prompt: TOK TOK2 dog"),
         "m.yaml:4:48: the instance prompt of rex holds TOK2, which is not learned; set pivotal"),
        ("base: toy-sdlx\n" + SUBJECTS, "m.yaml:3:1: key 'base' is already on line 2; keep one of them"),
        (SUBJECTS + "validation: {prompts: [TOK, a TOK7]}\n", "validation.prompts 'a TOK7' holds TOK7, which is not"),
        (SUBJECTS + "sweep: {rank: [4, 8]}\nearly_stop: {first: 999}\n",
         "m.yaml:8:21: early_stop.first is 999, but no job takes more than 300 steps; set it below"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_where_it_is_written(here: Path, text: str, said: str) -> None:
    lines = refused(here, text.replace("{preset: object", "{preset: object"))
    assert any(said in line for line in lines), lines
    assert all(re.match(r"m\.yaml:\d+:\d+: ", line) for line in lines)


def test_a_wrong_key_of_a_sweep_hides_nothing(here: Path) -> None:
    text = "recipe: {rank: 0}\n" + SUBJECTS + "sweep: {rnk: [4, 8], pivotal.tokns: [1], batch_size: [0]}\n"
    assert [line[:45] for line in refused(here, text)] == [
        "m.yaml:3:16: recipe.rank is 0; it must be at ",
        "m.yaml:8:9: unknown key 'sweep.rnk'; did you ",
        "m.yaml:8:22: unknown key 'sweep.pivotal.tokns",
        "m.yaml:8:55: sweep.batch_size is 0; it must b",
    ]


def test_a_base_that_is_nowhere_does_not_hide_the_rest(here: Path) -> None:
    (here / "m.yaml").write_text("name: a\nbase: toy-sdlx\nrecipe: {rnk: 3}\n" + SUBJECTS)
    with pytest.raises(ManifestError) as caught:
        examine(here / "m.yaml")
    base, key = str(caught.value).split("\n")
    assert "m.yaml:2:7: base 'toy-sdlx' is not here. Allowed: toy-sdxl" in base
    assert "m.yaml:3:10: unknown key 'recipe.rnk'" in key


def test_defaults_of_no_subjects_class_are_noted(here: Path) -> None:
    checked = examine(written(here, "defaults: {perosn: face, dog: fast}\n" + SUBJECTS))
    assert checked.notes == (
        "m.yaml:3:12: defaults.perosn is of no subject's class (they are dog, Person, style); correct or remove it",
    )


FLEET = """\
name: pets
base: toy-sdxl
recipe:
  preset: object
  rank: 8
  caption:
    shuffle: true
defaults:
  dog:
    steps: 30
  style: style
subjects:
  - images: rex
    class: dog
  - images: ada
    class: person
    recipe:
      preset: face
      seed: 3
  - images: ink
    class: style
sweep:
  batch_size: [1, 2]
resources:
  lanes: 2
"""
SPOILT = {
    "  preset: object\n": ("  preset: objekt\n", "recipe.preset is 'objekt'"),
    "  rank: 8\n": ("  rank: on\n", "recipe.rank is on, which YAML reads as true"),
    "    shuffle: true\n": ("    shufle: true\n", "unknown key 'recipe.caption.shufle'; did you mean 'shuffle'?"),
    "    steps: 30\n": ("    step: 30\n", "unknown key 'defaults.dog.step'; did you mean 'defaults.dog.steps'?"),
    "  style: style\n": ("  style: stile\n", "defaults.style.preset is 'stile'"),
    "  - images: rex\n": ("  - images: rxe\n", "subjects[0].images: no folder 'rxe'"),
    "      seed: 3\n": ("      seed: -3\n", "subjects[1].recipe.seed is -3; it must be at least 0"),
    "  - images: ink\n": ("  - imags: ink\n", "unknown key 'subjects[2].imags'; did you mean 'images'?"),
    "  batch_size: [1, 2]\n": (
        "  batch_size: [1, lots]\n",
        "sweep point {batch_size: lots}: sweep.batch_size is 'lots'",
    ),
    "  lanes: 2\n": ("  lanes: 2\n  lanes: 3\n", "key 'lanes' is already on line 25; keep one of them"),
}
"""Lines of the fleet, what stands there instead, and what is said of it."""


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(sorted(SPOILT)), min_size=1))
def test_mistakes_of_recipes_subjects_and_sweeps_hide_none_of_each_other(here: Path, spoilt: set[str]) -> None:
    text, expected = FLEET, []
    for line in spoilt:
        instead, said = SPOILT[line]
        number = FLEET[: FLEET.index(line)].count("\n") + 1 + ("lanes" in line)
        text = text.replace(line, instead)
        expected.append((number, said))
    (here / "m.yaml").write_text(text)
    if spoilt == {"  - images: rex\n"}:  # a subject that is missing stops itself alone
        assert [bool(report.errors) for report in examine(here / "m.yaml").reports] == [True, False, False]
        return
    with pytest.raises(ManifestError) as caught:
        examine(here / "m.yaml")
    lines = [line.removeprefix(f"{here}/m.yaml:") for line in str(caught.value).split("\n")]
    for number, said in expected:
        assert any(re.match(rf"{number}:\d+: {re.escape(said)}", line) for line in lines), (number, said, lines)
    assert len(lines) == len(expected), lines


def test_the_fleet_that_is_spoilt_above_is_good(here: Path) -> None:
    (here / "m.yaml").write_text(FLEET)
    assert len(prepare(here / "m.yaml").plan.jobs) == 6
