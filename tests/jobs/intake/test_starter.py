"""A first manifest from folders of photos: what it guesses, that it can be read, and what `check` says of it."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lorafleet.config import SCHEMA_FILE, Manifest
from lorafleet.config.load import load_manifest
from lorafleet.errors import DataError
from lorafleet_jobs.cli.commands import COMMANDS
from lorafleet_jobs.dataset.subjects import find_subjects
from lorafleet_jobs.intake.prepare import examine
from lorafleet_jobs.intake.starter import guessed_class, plain, starter_manifest


def fill(folder, count=4):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.effect_noise((48, 40), 60 + i).convert("RGB").save(folder / f"{i}.png")


@pytest.fixture
def photos(tmp_path):
    for name in ("rex_dog", "Grandma's Cat", "dog10", "dog2", "IMG no", "2024"):
        fill(tmp_path / "My Photos" / name)
    for name in ("empty", "@eaDir", ".hidden"):
        (tmp_path / "My Photos" / name).mkdir()
    return tmp_path / "My Photos"


def test_a_subject_for_each_folder_with_photos(photos, tmp_path):
    file = tmp_path / "pets.yaml"
    file.write_text(starter_manifest(photos, file, "file:///schema.json"), "utf-8")
    manifest = load_manifest(file)
    assert manifest.name == "my-photos"
    subjects = find_subjects(manifest, tmp_path)
    assert [(each.name, each.class_noun) for each in subjects] == [
        ("2024", "?"), ("dog2", "dog"), ("dog10", "dog"), ("grandma-s-cat", "cat"), ("img-no", "?"), ("rex_dog", "dog")
    ]  # fmt: skip
    assert all(each.folder.is_dir() for each in subjects)
    assert '# "empty" holds no image' in file.read_text()
    assert "eaDir" not in file.read_text()
    reports = {report.subject.name: [each.id for each in report.findings] for report in examine(file).reports}
    assert {name for name, ids in reports.items() if "D016" in ids} == {"2024", "img-no"}


def test_photos_without_folders_are_one_subject(tmp_path):
    fill(tmp_path / "my dog")
    manifest = Manifest.model_validate(
        yaml.safe_load(starter_manifest(tmp_path / "my dog", tmp_path / "manifest.yaml", "x"))
    )
    assert [(each.images, each.class_noun) for each in manifest.subjects] == [("my dog", "dog")]


def test_folders_that_come_to_one_name_get_names_of_their_own(tmp_path):
    for name in ("Rex", "rex!", "日本"):
        fill(tmp_path / "p" / name)
    file = tmp_path / "m.yaml"
    file.write_text(starter_manifest(tmp_path / "p", file, "x"), "utf-8")
    names = [each.name for each in find_subjects(load_manifest(file), tmp_path)]
    assert len(set(names)) == 3
    assert "" not in names


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "there is no folder"), ("bare", "no image in")])
def test_without_photos_it_says_what_is_wanted(tmp_path, folder, message):
    (tmp_path / "bare" / "inner").mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        starter_manifest(tmp_path / folder, tmp_path / "m.yaml", "x")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_any_text_is_read_back_as_text(text):
    assert yaml.safe_load(f"- {{images: {plain(text)}, class: dog}}") == [{"images": text, "class": "dog"}]


@pytest.mark.parametrize("word", ["no", "NO", "Yes", "null", "1e-4", "2024", "0x1F", "~", "on", "12:30", "=", "."])
def test_words_that_yaml_takes_for_something_else_stay_words(word):
    assert yaml.safe_load(f"[{plain(word)}]") == [word]


@pytest.mark.parametrize(
    ("folder", "noun"),
    [("10_sks dog", "dog"), ("Rex-the-Dog", "dog"), ("dogs", "?"), ("red_mug_2", "mug"), ("cat person", "person")],
)
def test_the_class_is_the_last_noun_that_is_known(folder, noun):
    assert guessed_class(folder) == noun


def test_init_writes_once_and_says_what_comes_next(photos, tmp_path, monkeypatch, capsys):
    from lorafleet.cli import new_app, run
    from lorafleet.commands.lazy import register_commands

    app = new_app()
    register_commands(app, COMMANDS)
    monkeypatch.chdir(tmp_path)
    assert run(app, ["init", "My Photos"]) == 0
    said = capsys.readouterr().err
    assert "manifest.yaml: 6 subjects" in said
    assert "2 without a class" in said
    assert "next: lorafleet check manifest.yaml" in said
    first = (tmp_path / "manifest.yaml").read_text()
    assert first.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE.as_uri()}\n")
    assert run(app, ["init", "My Photos"]) == 2
    assert "there already" in capsys.readouterr().err
    assert (tmp_path / "manifest.yaml").read_text() == first
    assert json.loads(SCHEMA_FILE.read_text())["properties"]["subjects"]
