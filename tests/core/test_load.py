"""Reading manifests: every way a file can be wrong is one line that says what, where, and what to do."""

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
        ("name: pets\n  base: sdxl\n", "pets.yaml:2: not valid YAML: mapping values are not allowed here"),
        ("name: [pets\n", "pets.yaml:2: not valid YAML: expected ',' or ']'"),
        ("name: pets\nbase: sdxl\nname: cats\n", "pets.yaml:3: not valid YAML: key 'name' is already on line 1"),
        ("name: pets\nrecipe:\n  rank: 4\n  rank: 8\n", "pets.yaml:4: not valid YAML: key 'rank' is already on line 3"),
        ("a: &x [1]\nb: *x\n", "pets.yaml:2: not valid YAML: aliases (*name) are not read"),
        ("name: !!python/object:os.system {}\n", "pets.yaml:1: not valid YAML: could not determine a constructor"),
        ("name: pets\x00\n", "not valid YAML"),
        ("name: 2024-13-45\n", "a value cannot be read (month must be in 1..12); put it in quotes"),
        (f"name: {'9' * 5000}\n", "a value cannot be read (Exceeds the limit"),
        ("[" * 5000, "nested too deeply"),
        (b"name: pets\nbase: \xff\n", "pets.yaml:2: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("#" * (MAX_BYTES + 1), "is larger than 1048576 bytes"),
        ("name: pets\n", "'subjects' is missing; add it"),
        ("name: pets\nsubjects: []\n", "subjects is []"),
        ("name: Pets!\nsubjects: [{images: a}]\n", "name is 'Pets!'; String should match pattern"),
        (GOOD + "resorces: {lanes: 2}\n", "unknown key 'resorces'; did you mean 'resources'?"),
        (GOOD + "resources: {lane: 2}\n", "unknown key 'resources.lane'; did you mean 'lanes'?"),
        (GOOD.replace("class:", "clas:"), "unknown key 'subjects.0.clas'; did you mean 'class'?"),
        (GOOD + "resources: {exact: true, compile: true}\n", "exact and compile are both on"),
        (GOOD + "resources: {lanes: 0}\n", "resources.lanes is 0; Input should be greater than or equal to 1"),
        ("name: a\nsubjects: [{name: b}]\n", "give either images (one folder) or glob (one subject a folder)"),
        ("name: a\nsubjects: [{name: b, glob: c}]\n", "subjects of a glob are named after their folders"),
        (GOOD + "apiVersion: lorafleet/v2\n", "apiVersion is 'lorafleet/v2'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert said in message
    assert "pets.yaml" in message
    assert "\n" not in message


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
    assert isinstance(outcome, Manifest) or "\n" not in outcome
