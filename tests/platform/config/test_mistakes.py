"""Every mistake of a manifest in one reading: where it stands, and what to do about it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.config import Manifest
from lorafleet.config.load import load_manifest, read_manifest
from lorafleet.config.wording import PATTERNS
from lorafleet.errors import ManifestError

GOOD = """\
name: pets
base: toy-sdxl
subjects:
  - name: rex
    images: photos/rex
    class: dog
  - glob: "photos/cats-*"
    class: cat
  - name: mug
    images: photos/mug
    class: mug
    instance_prompt: a photo of TOK mug
sweep:
  rank: [4, 8]
early_stop:
  first: 20
  metric: loss
resources:
  lanes: 2
  pack: 4
  exact: true
validation:
  prompts: [a photo of TOK]
  every: 50
notify:
  url: https://example.org/done
priority: 5
"""
LINES = GOOD.splitlines()
PLACE = re.compile(r"^\S*pets\.yaml:(\d+):(\d+): (.+)$")
REMEDY = re.compile(
    r"; (it must be|did you mean|known keys are|add it|keep one|write|put|give|use|raise|leave|correct)|give"
)


def told(tmp_path: Path, text: str) -> list[tuple[int, int, str]]:
    """Line, column and message of each mistake."""
    file = tmp_path / "pets.yaml"
    file.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load_manifest(file)
    matches = [PLACE.match(line) for line in str(caught.value).split("\n")]
    assert all(matches), str(caught.value)
    return [(int(match[1]), int(match[2]), match[3]) for match in matches if match]


def test_the_manifest_that_is_spoilt_below_is_good(tmp_path: Path) -> None:
    (tmp_path / "pets.yaml").write_text(GOOD)
    assert len(load_manifest(tmp_path / "pets.yaml").subjects) == 3


def test_all_mistakes_come_in_one_reading_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("name: pets", "name: no").replace("class: cat", "clas: cat").replace("lanes: 2", "lanes: 0")
    text = (
        text.replace("    images: photos/mug\n", "").replace("first: 20", "first: soon") + "priority: 6\nnitofy: {}\n"
    )
    assert told(tmp_path, text) == [
        (1, 7, 'name is no, which YAML reads as false; it must be text; put it in quotes: "no"'),
        (8, 5, "unknown key 'subjects[1].clas'; did you mean 'class'?"),
        (9, 5, "subjects[2]: give one of images (one folder), glob (a subject for each folder) and from (a table)"),
        (15, 10, "early_stop.first is 'soon'; it must be a whole number"),
        (18, 10, "resources.lanes is 0; it must be at least 1"),
        (27, 1, "key 'priority' is already on line 26; keep one of them"),
        (28, 1, "unknown key 'nitofy'; did you mean 'notify'?"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # what is misspelt is not missing as well
        ("name: pets", "nmae: pets", [(1, 1, "unknown key 'nmae'; did you mean 'name'?")]),
        ("    images: photos/rex", "    imagse: photos/rex", [(5, 5, "unknown key 'subjects[0].imagse'; did you")]),
        # a wrong sweep is not also a sweep that early_stop misses
        ("sweep:\n  rank: [4, 8]", "sweep: 7", [(13, 8, "sweep is 7; write recipe keys with lists of values, or")]),
        # keys that disagree, beside another mistake in the same mapping
        ("  exact: true", "  exact: true\n  compile: true\n  lane: 2",
         [(19, 3, "resources: exact and compile are both on;"), (23, 3, "unknown key 'resources.lane'; did you mean")]),
        # all subjects wrong
        (GOOD[GOOD.index("  - name: rex") : GOOD.index("sweep:")], "  - {images: 5}\n  - rex\n", [
            (4, 14, 'subjects[0].images is 5; it must be text or null; put it in quotes: "5"'),
            (5, 5, "subjects[1] is 'rex'; it must be a mapping of"),
        ]),
        # tabs
        ("  rank: [4, 8]\nearly_stop:\n  first: 20\n  metric: loss\n",
         "\trank: [4, 8]\nearly_stop:\n\tfirst: 0\n\tmetric: loss\n",
         [(14, 1, "this line is indented with tabs; YAML takes spaces alone, so write two for each"),
          (16, 1, "lines 16 to 17 are indented with tabs"), (16, 10, "early_stop.first is 0; it must be at least 1")]),
        # paths of Windows
        ("images: photos/mug", 'images: "C:\\Users\\me\\mug"', [(10, 16, "in double quotes \\U is an escape that")]),
        ("images: photos/mug", 'images: "D:\\new\\table"', [(10, 13, "in double quotes \\n is an escape, not two")]),
        ("images: photos/mug", 'images: "photos\\rex"', [(10, 13, "in double quotes \\r is an escape, not two")]),
        # words that YAML 1.1 makes something else of
        ("class: dog", "class: on", [(6, 12, "subjects[0].class is on, which YAML reads as true; it must be text or")]),
        ("name: rex", "name: 007", [(4, 11, 'subjects[0].name is 007, which YAML reads as 7; it must be text')]),
        ("lanes: 2", "lanes: yes", [(19, 10, "resources.lanes is yes, which YAML reads as true; it must be a number")]),
        ("url: https://example.org/done", "url: https://example.org/done\n  secret_env: MY-KEY",
         [(27, 15, "notify.secret_env is 'MY-KEY'; it must be the name of an environment variable:")]),
        ("name: pets", "name: pets\n<<: {base: sdxl}", [(2, 1, "<< is not read; write the keys out")]),
        ("class: dog", "class: &dog dog\n    instance_prompt: *dog", [(7, 22, "aliases (*name) are not read; write")]),
        ("pack: 4", "pack: 2024-13-45", [(20, 9, "a value cannot be read (month must be in 1..12); put it in quotes")]),
    ],
)  # fmt: skip
def test_what_is_said_of_one_mistake(tmp_path: Path, old: str, new: str, expected: list[Any]) -> None:
    assert old in GOOD
    found = told(tmp_path, GOOD.replace(old, new, 1))
    assert [(line, column) for line, column, _ in found] == [(line, column) for line, column, _ in expected]
    for (_, _, said), (_, _, wanted) in zip(found, expected, strict=True):
        assert said.startswith(wanted)
        assert "^" not in said, "no regular expressions"


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    text = GOOD + "recipe: {learning_rate: 1e-4}\n"
    text = text.replace("rank: [4, 8]", "random: {count: 2, space: {learning_rate: {log_uniform: [1e-5, 1e-3]}}}")
    (tmp_path / "pets.yaml").write_text(text.replace("lanes: 2", "gpus_per_lane: 5e-1\n  lanes: 2"))
    manifest = load_manifest(tmp_path / "pets.yaml")
    assert manifest.resources.gpus_per_lane == 0.5
    assert all(1e-5 <= point["learning_rate"] <= 1e-3 for point in manifest.sweep.points())


def test_every_pattern_has_words() -> None:
    schema = str(Manifest.model_json_schema())
    patterns = set(re.findall(r"'pattern': '([^']+)'", schema))
    assert patterns
    assert patterns <= set(PATTERNS)


def test_the_rest_of_a_wrong_manifest_can_be_looked_at(tmp_path: Path) -> None:
    """What the commands find beyond the file itself is told with it, and at its own place."""
    file = tmp_path / "pets.yaml"
    file.write_text(GOOD.replace("images: photos/rex", "images: 5").replace("name: pets", "name: P!"))
    written = read_manifest(file)
    assert [subject.glob or subject.images for subject in written.manifest.subjects] == ["photos/cats-*", "photos/mug"]
    assert str(written.place("subjects", 1, "images")) == f"{file}:10:13"
    assert not written.stands_in("subjects", 1)
    file.write_text("name: a\n")
    assert read_manifest(file).stands_in("subjects", 0)


def _spoil(lines: list[str], number: int, kind: str) -> tuple[str, str]:
    """The line in the place of another, and a word of what is said about it."""
    line = lines[number - 1]
    indent = line[: len(line) - len(line.lstrip("- "))]
    key = line[len(indent) :].split(":")[0]
    if kind == "unknown":
        return f"{line}\n{' ' * len(indent)}zq{number}x: 1", f"zq{number}x"
    if kind == "duplicate":
        return f"{line}\n{' ' * len(indent)}{line[len(indent) :]}", f"key {key!r} is already on line"
    if kind == "wrong type":
        return f"{indent}{key}: [{{a: b}}]", f"{key} is "
    return f"{indent}{key}: {BAD_VALUES[key]}", f"{key} is "


BAD_VALUES = {
    "name": "Ä!", "images": "no", "class": "''", "glob": "1.5", "instance_prompt": "on", "first": "0", "metric": "scor",
    "lanes": "0", "pack": "lots", "exact": "perhaps", "every": "0", "url": "ftp://x", "priority": "999", "base": "~",
}  # fmt: skip
SPOILT = [n for n, line in enumerate(LINES, 1) if line.lstrip("- ").split(":")[0] in BAD_VALUES]
KINDS = ("unknown", "duplicate", "wrong type", "bad value")


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(SPOILT), st.sampled_from(KINDS), min_size=1, max_size=8))
def test_every_mistake_is_told_wherever_the_others_are(
    tmp_path_factory: pytest.TempPathFactory, mistakes: dict[int, str]
) -> None:
    lines, expected, added = list(LINES), [], 0
    for number, kind in sorted(mistakes.items()):
        lines[number - 1], word = _spoil(LINES, number, kind)
        extra = kind in ("unknown", "duplicate")
        expected.append((number + added + extra, word))
        added += extra
    found = told(tmp_path_factory.getbasetemp(), "\n".join(lines) + "\n")
    for line, word in expected:
        assert any(at == line and word in said for at, _, said in found), (line, word, found)
    assert len(found) == len(expected), (expected, found)
    assert all(column >= 1 and REMEDY.search(said) for _, column, said in found), found


MISSING = {
    "name: pets": "'name' is missing; add it",
    "  first: 20": "'early_stop.first' is missing; add it",
    "    images: photos/mug": "subjects[2]: give one of images (one folder), glob",
}


@given(st.sets(st.sampled_from(sorted(MISSING)), min_size=1), st.booleans())
@settings(deadline=None, max_examples=30)
def test_every_key_that_is_missing_is_told(
    tmp_path_factory: pytest.TempPathFactory, missing: set[str], and_unknown: bool
) -> None:
    text = GOOD
    for key in missing:
        text = text.replace(f"{key}\n", "  # nothing\n")
    found = [said for _, _, said in told(tmp_path_factory.getbasetemp(), text + "zzz: 1\n" * and_unknown)]
    wanted = [MISSING[key] for key in missing]
    assert all(any(said.startswith(one) for said in found) for one in wanted), (wanted, found)
    assert len(found) == len(wanted) + and_unknown, found


@given(st.text(alphabet="nameimgsubjctlo:-[]{}*&!?|>'\"#%@,\\ \n\t01.", max_size=120))
@settings(deadline=None)
def test_whatever_is_written_has_a_place(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "pets.yaml"
    file.write_text(text)
    try:
        load_manifest(file)
        lines = []
    except ManifestError as problem:
        lines = str(problem).split("\n")
    assert all("pets.yaml" in line for line in lines)
    assert not isinstance(_plain(text), dict) or all(PLACE.match(line) for line in lines), lines


def _plain(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return None
