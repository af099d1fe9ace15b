"""Reading manifests: every way a file can be wrong is one line that says what, where, and what to do."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafleet.config import Manifest
from lorafleet.config.load import MAX_BYTES, load_manifest
from lorafleet.errors import ManifestError

GOOD = "name: pets\nsubjects:\n  - {name: rex, images: photos/rex, class: dog}\n"


def load(tmp_path: Path, text: str | bytes) -> Manifest:
    file = tmp_path / "pets.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_manifest(file)


def test_a_manifest_and_its_defaults(tmp_path: Path) -> None:
    manifest = load(tmp_path, GOOD)
    assert (manifest.name, manifest.base, manifest.resources.lanes) == ("pets", "toy-playground", 1)
    assert (manifest.subjects[0].name, manifest.subjects[0].class_noun) == ("rex", "dog")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()) == load(tmp_path, GOOD)


def test_a_manifest_survives_its_own_json(tmp_path: Path) -> None:
    manifest = load(tmp_path, GOOD + "sweep: {rank: [4, 8]}\nrecipe: {pivotal: null}\n")
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.with_changes(base="sdxl").subjects == manifest.subjects


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; it needs at least name and subjects"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "holds a list; a manifest is a mapping"),
        ("pets\n", "holds plain text; a manifest is a mapping"),
        ("7\n", "holds one int"),
        (
            "name: pets\n  base: sdxl\n",
            "pets.yaml:2:7: not valid YAML: mapping values are not allowed here; put a value",
        ),
        (
            "name: [pets\n",
            "pets.yaml:2:1: not valid YAML: expected ',' or ']', but got '<stream end>'; close the bracket",
        ),
        ("name: pets\nbase: sdxl\nname: cats\n", "pets.yaml:3:1: key 'name' is already on line 1; keep one"),
        ("name: pets\nrecipe:\n  rank: 4\n  rank: 8\n", "pets.yaml:4:3: key 'rank' is already on line 3; keep one"),
        ("a: &x [1]\nb: *x\n", "pets.yaml:2:4: aliases (*name) are not read; write"),
        ("name: !!python/object:os.system {}\n", "pets.yaml:1:7: tags (os.system) are not read; write"),
        (
            "name: pets\x00\n",
            "pets.yaml:1:11: not valid YAML: the character U+0000 cannot stand in a text file; remove",
        ),
        ("name: 2024-13-45\n", "a value cannot be read (month must be in 1..12); put it in quotes"),
        (f"name: {'9' * 5000}\n", "a value cannot be read (Exceeds the limit"),
        ("[" * 5000, "nested too deeply"),
        (b"name: pets\nbase: \xff\n", "pets.yaml:2:7: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("#" * (MAX_BYTES + 1), "is larger than 1048576 bytes"),
        ("name: pets\n", "'subjects' is missing; add it"),
        ("name: pets\nsubjects: []\n", "subjects is []"),
        ("name: Pets!\nsubjects: [{images: a}]\n", "name is 'Pets!'; it must be 1 to 64 small letters, digits, dots"),
        (GOOD + "resorces: {lanes: 2}\n", "unknown key 'resorces'; did you mean 'resources'?"),
        (GOOD + "resources: {lane: 2}\n", "unknown key 'resources.lane'; did you mean 'lanes'?"),
        (GOOD.replace("class:", "clas:"), "unknown key 'subjects[0].clas'; did you mean 'class'?"),
        (GOOD + "resources: {exact: true, compile: true}\n", "exact and compile are both on"),
        (GOOD + "resources: {lanes: 0}\n", "resources.lanes is 0; it must be at least 1"),
        (
            "name: a\nsubjects: [{name: b}]\n",
            "give one of images (one folder), glob (a subject for each folder) and from (a table)",
        ),
        ("name: a\nsubjects: [{name: b, glob: c}]\n", "subjects of a glob are named after their folders"),
        (GOOD + "apiVersion: lorafleet/v2\n", "apiVersion is 'lorafleet/v2'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, text)
    lines = str(caught.value).split("\n")
    assert any(said in line for line in lines)
    assert all("pets.yaml" in line for line in lines)


QUOTES = "it must be text; put it in quotes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: no", f'name is no, which YAML reads as false; {QUOTES}: "no"'),
        ("name: 007", f'name is 007, which YAML reads as 7; {QUOTES}: "007"'),
        ("name: 12:30:45", f'name is 12:30:45, which YAML reads as 45045; {QUOTES}: "12:30:45"'),
        ("name: 2024-01-02", f'name is 2024-01-02; {QUOTES}: "2024-01-02"'),
        ("subjects: {rex: {images: rex}}", 'subjects is a mapping; it must be a list, as in [a, b], or a line'),
        ("subjects: [rex]", "subjects[0] is 'rex'; it must be a mapping of caption_column, class, from, glob, images,"),
        ("subjects: []", "subjects is []; it must be a list of at least 1"),
        ("recipe: {steps: 1,500}", "unknown key 'recipe.500'; keys are words; in braces a comma ends a value"),
        ("sweep: {rank: [4], 8: 16}", "unknown key 'sweep.8'; keys are words"),
        ("5: five", "unknown key '5'; keys are words"),
        ("notify: false", "notify is false; it must be a mapping of secret_env, url, or null for none"),
        ("resources: 4", "resources is 4; it must be a mapping of capture, checkpoint_seconds,"),
        ("resources: {pack: many}", "resources.pack is 'many'; it must be a whole number or 'auto'"),
        ("resources: {pack: yes}", "resources.pack is yes, which YAML reads as true; it must be a number"),
        ("resources: {gpu_memory_gib: 24GB}", "resources.gpu_memory_gib is '24GB'; it must be a number or null"),
        ("resources: {gpu_memory_gib: 24576}", "resources.gpu_memory_gib is 24576; it must be at most 1024 or null"),
        ("resources: {lanes: 2.5}", "resources.lanes is 2.5; it must be a whole number"),
        ("resources: {exact: 3}", "resources.exact is 3; it must be true or false"),
        ("validation: {prompts: a dog}", "validation.prompts is 'a dog'; it must be a list"),
        ("validation: {every: off}", "validation.every is off, which YAML reads as false; it must be a number or null"),
        ("base: ''", "base is ''; it must be text of 1 character or more"),
    ],
)  # fmt: skip
def test_what_yaml_made_of_a_value_is_said_in_words_of_yaml(tmp_path: Path, text: str, said: str) -> None:
    """One line instead of another, in a manifest that is right."""
    key = text.partition(":")[0]
    lines = [*GOOD.replace("subjects:\n  - ", "subjects: [").replace("dog}", "dog}]").splitlines()]
    whole = "\n".join([*(line for line in lines if not line.startswith(f"{key}:")), text])
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, whole)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert not re.search(r"\b(Input|Tuple|String|instance|dictionary|tuple|NoneType|True|False|None)\b", message)


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file; give the path of a manifest"):
        load_manifest(tmp_path / "nope.yaml")
    with pytest.raises(ManifestError, match="is a folder"):
        load_manifest(tmp_path)
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest(Path("a\0b"))


@given(
    st.binary(max_size=200) | st.text(alphabet="namesubjctg:-[]{}*&!?|>'\"#%@, \n\t0123.", max_size=200).map(str.encode)
)
def test_any_bytes_are_a_manifest_or_a_manifest_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(data)
    outcome: Manifest | str
    try:
        outcome = load_manifest(file)
    except ManifestError as problem:
        outcome = str(problem)
    assert isinstance(outcome, Manifest) or all("any.yaml" in line for line in outcome.split("\n"))
